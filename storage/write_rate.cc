#include "storage/write_rate.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>

#include "common/unique_fd.h"

namespace fermata::storage {
namespace {

constexpr size_t kBlock = 4U << 20;
constexpr size_t kTotal = 32U << 20;

}  // namespace

Result<double> measure_write_rate(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::path place = std::filesystem::absolute(folder, error);
  while (!std::filesystem::is_directory(place, error) && place.has_relative_path()) {
    place = place.parent_path();
  }
  // O_TMPFILE leaves nothing behind; O_DIRECT as images are written, where the file system has it.
  UniqueFd file(open(place.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC | O_DIRECT, 0600));
  if (!file) file.reset(open(place.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
  if (!file) return errno_failure(errno, fmt::format("{}: trial file", place.string()));

  void* block = mmap(nullptr, kBlock, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (block == MAP_FAILED) return errno_failure(errno, "buffer of the trial write");
  const auto start = std::chrono::steady_clock::now();
  int failed = 0;
  for (size_t done = 0; done < kTotal && failed == 0;) {
    const ssize_t written = write(file.get(), block, kBlock);
    if (written < 0)
      failed = errno;
    else
      done += static_cast<size_t>(written);
  }
  if (failed == 0 && fsync(file.get()) != 0) failed = errno;
  munmap(block, kBlock);
  if (failed != 0) {
    return Failure(
        errno_status(Code::kStorage, failed, fmt::format("{}: trial write", place.string())));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(kTotal) / std::max(seconds.count(), 1e-6);
}

}  // namespace fermata::storage
