#include "node-agent/engine/exclusive_pages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/memory_image.h"

namespace fermata::engine {
namespace {

constexpr uint64_t kPresent = 1ULL << 63;
constexpr uint64_t kExclusive = 1ULL << 56;

}  // namespace

Result<ExclusivePages> ExclusivePages::open(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/pagemap", pid);
  UniqueFd pagemap(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap) return errno_failure(errno, path);
  return ExclusivePages(std::move(pagemap));
}

uint64_t ExclusivePages::bytes(uint64_t address, uint64_t length) const {
  std::array<uint64_t, 512> entries;
  uint64_t pages = 0;
  const uint64_t end = (address + length) / kPageSize;
  for (uint64_t page = address / kPageSize; page < end;) {
    const size_t wanted = std::min<uint64_t>(entries.size(), end - page);
    const ssize_t got = ::pread(pagemap_.get(), entries.data(), wanted * sizeof(uint64_t),
                                static_cast<off_t>(page * sizeof(uint64_t)));
    const auto count = got > 0 ? static_cast<size_t>(got) / sizeof(uint64_t) : 0;
    if (count == 0) break;
    pages += static_cast<uint64_t>(std::count_if(
        entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(count),
        [](uint64_t entry) { return (entry & kPresent) != 0 && (entry & kExclusive) != 0; }));
    page += count;
  }
  return pages * kPageSize;
}

}  // namespace fermata::engine
