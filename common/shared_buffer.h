// Memory that another process can map: a memfd, mapped here. Movable, not copyable; its bytes may
// be used from any thread.
#pragma once

#include <cstddef>
#include <span>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata {

class SharedBuffer {
 public:
  /// Zeroed, page-aligned, all of it there: no page fault of ours later. `name` is shown in
  /// /proc/PID/maps.
  static Result<SharedBuffer> make(const char* name, size_t size);
  SharedBuffer(SharedBuffer&& other) noexcept;
  SharedBuffer& operator=(SharedBuffer&&) = delete;
  SharedBuffer(const SharedBuffer&) = delete;
  SharedBuffer& operator=(const SharedBuffer&) = delete;
  ~SharedBuffer();

  std::span<std::byte> bytes() const { return bytes_; }
  int fd() const { return fd_.get(); }

 private:
  SharedBuffer(UniqueFd fd, std::span<std::byte> bytes) : fd_(std::move(fd)), bytes_(bytes) {}
  UniqueFd fd_;
  std::span<std::byte> bytes_;
};

}  // namespace fermata
