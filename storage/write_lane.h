// One thread's way to a file: buffers that are filled in turn, and the writes of those that are
// full. By io_uring, where the kernel lets us, a thread fills one buffer while others are on their
// way; elsewhere it waits for each write. One thread at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/status.h"

namespace fermata::storage {

/// Borrowed descriptors of one file.
struct PageFile {
  int fd = -1;
  int direct = -1;  ///< opened O_DIRECT; -1: none
  std::string path;
};

class WriteLane {
 public:
  WriteLane() = default;
  WriteLane(const WriteLane&) = delete;
  WriteLane& operator=(const WriteLane&) = delete;
  virtual ~WriteLane() = default;

  /// `memory` is divided into kBuffers buffers. `direct`: whether O_DIRECT is still tried; shared
  /// by all lanes of a file, cleared by the first that the file system refuses it to.
  static std::unique_ptr<WriteLane> open(const PageFile& file, std::span<std::byte> memory,
                                         std::atomic<bool>& direct);
  static constexpr size_t kBuffers = 3;

  /// A buffer to fill. Fails with the error of a write that was under way.
  virtual Result<std::span<std::byte>> buffer() = 0;
  /// Has the first `length` bytes of it written at `offset`.
  virtual Status write(uint64_t offset, size_t length) = 0;
  /// All writes are over. Also to be called after a failure.
  virtual Status finish() = 0;
};

}  // namespace fermata::storage
