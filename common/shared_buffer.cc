#include "common/shared_buffer.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

namespace fermata {

Result<SharedBuffer> SharedBuffer::make(const char* name, size_t size) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd) return errno_failure(errno, fmt::format("memfd_create for {}", name));
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return errno_failure(errno, fmt::format("{} bytes of memory for {}", size, name));
  }
  void* place =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd.get(), 0);
  if (place == MAP_FAILED) {
    return errno_failure(errno, fmt::format("{} bytes of memory for {}", size, name));
  }
  // A fork of ours would share its pins with writes under way.
  ::madvise(place, size, MADV_DONTFORK);
  return SharedBuffer(std::move(fd), {static_cast<std::byte*>(place), size});
}

SharedBuffer::SharedBuffer(SharedBuffer&& other) noexcept
    : fd_(std::move(other.fd_)), bytes_(std::exchange(other.bytes_, {})) {}

SharedBuffer::~SharedBuffer() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

}  // namespace fermata
