#include "node-agent/engine/pages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace fermata::engine {
namespace {

// <linux/fs.h> of Debian 12 does not have these yet.
struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
struct PagemapScan {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScan);
constexpr uint64_t kPageIsFile = 1 << 2;
constexpr uint64_t kPageIsPresent = 1 << 3;
constexpr uint64_t kPageIsSwapped = 1 << 4;
constexpr uint64_t kPageIsZero = 1 << 5;

constexpr uint64_t kEntryPresent = 1ULL << 63;
constexpr uint64_t kEntrySwapped = 1ULL << 62;
constexpr uint64_t kEntryFile = 1ULL << 61;

void append(std::vector<Extent>& extents, uint64_t start, uint64_t end) {
  if (!extents.empty() && extents.back().address + extents.back().length == start) {
    extents.back().length += end - start;
  } else {
    extents.push_back({start, end - start, Where::kHere});
  }
}

}  // namespace

Result<PageScanner> PageScanner::open(pid_t pid) {
  UniqueFd pagemap(::open(fmt::format("/proc/{}/pagemap", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap) return errno_failure(errno, fmt::format("opening the page map of process {}", pid));
  return PageScanner(std::move(pagemap));
}

Status PageScanner::scan(uint64_t start, uint64_t end, std::vector<Extent>& extents) const {
  bool unsupported = false;
  FERMATA_TRY(scan_by_ioctl(start, end, extents, unsupported));
  return unsupported ? scan_by_reading(start, end, extents) : Status::ok();
}

Status PageScanner::scan_by_ioctl(uint64_t start, uint64_t end, std::vector<Extent>& extents,
                                  bool& unsupported) const {
  std::array<PageRegion, 512> regions{};
  uint64_t at = start;
  while (at < end) {
    PagemapScan request{};
    request.size = sizeof request;
    request.start = at;
    request.end = end;
    request.vec = reinterpret_cast<uint64_t>(regions.data());
    request.vec_len = regions.size();
    // Present or swapped, and neither a page of a file nor the shared page of zeros.
    request.category_inverted = kPageIsFile | kPageIsZero;
    request.category_mask = kPageIsFile | kPageIsZero;
    request.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
    request.return_mask = kPageIsPresent | kPageIsSwapped;
    const int count = ::ioctl(pagemap_.get(), kPagemapScan, &request);
    if (count < 0) {
      if (at == start && (errno == ENOTTY || errno == EINVAL)) {
        unsupported = true;
        return Status::ok();
      }
      return errno_status(errno, fmt::format("scanning pages at {:#x}", at));
    }
    for (int i = 0; i < count; ++i) {
      append(extents, regions[static_cast<size_t>(i)].start, regions[static_cast<size_t>(i)].end);
    }
    if (request.walk_end <= at) return {Code::kInternal, "the scan of pages does not advance"};
    at = request.walk_end;
  }
  return Status::ok();
}

Status PageScanner::scan_by_reading(uint64_t start, uint64_t end,
                                    std::vector<Extent>& extents) const {
  std::vector<uint64_t> entries(65536);
  for (uint64_t at = start; at < end;) {
    const size_t want =
        static_cast<size_t>(std::min<uint64_t>(entries.size(), (end - at) / kPageSize));
    const ssize_t got = ::pread(pagemap_.get(), entries.data(), want * sizeof(uint64_t),
                                static_cast<off_t>(at / kPageSize * sizeof(uint64_t)));
    if (got <= 0) return errno_status(got == 0 ? EIO : errno, "reading the page map");
    const size_t count = static_cast<size_t>(got) / sizeof(uint64_t);
    for (size_t i = 0; i < count; ++i) {
      const bool there = (entries[i] & (kEntryPresent | kEntrySwapped)) != 0;
      // Of a swapped page the bit "file" says shared memory, which private maps do not have.
      if (there && (entries[i] & kEntryFile) == 0) {
        append(extents, at + i * kPageSize, at + (i + 1) * kPageSize);
      }
    }
    at += count * kPageSize;
  }
  return Status::ok();
}

Result<std::shared_ptr<const MemorySource>> ProcessMemorySource::open(pid_t pid) {
  UniqueFd memory(::open(fmt::format("/proc/{}/mem", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (!memory) return errno_failure(errno, fmt::format("opening the memory of process {}", pid));
  return std::shared_ptr<const MemorySource>(
      std::make_shared<ProcessMemorySource>(pid, std::move(memory)));
}

Status ProcessMemorySource::read(uint64_t address, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(memory_.get(), out.data() + done, out.size() - done,
                              static_cast<off_t>(address + done));
    if (n <= 0) {
      return errno_status(n == 0 ? EIO : errno, fmt::format("reading memory at {:#x} of process {}",
                                                            address + done, pid_));
    }
    done += static_cast<size_t>(n);
  }
  return Status::ok();
}

Status FileMemorySource::read(uint64_t address, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(file_.get(), out.data() + done, out.size() - done,
                              static_cast<off_t>(address + done));
    if (n < 0) return errno_status(errno, fmt::format("reading shared memory at {:#x}", address));
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  std::memset(out.data() + done, 0, out.size() - done);
  return Status::ok();
}

Result<std::vector<Extent>> data_extents(int fd, uint64_t size) {
  std::vector<Extent> extents;
  uint64_t at = 0;
  while (at < size) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    if (data < 0) {
      // A file system without SEEK_DATA: all of it is data.
      extents.assign(1, {0, (size + kPageSize - 1) / kPageSize * kPageSize, Where::kHere});
      return extents;
    }
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) return errno_failure(errno, "looking for the end of data");
    const uint64_t start = static_cast<uint64_t>(data) / kPageSize * kPageSize;
    const uint64_t end = (static_cast<uint64_t>(hole) + kPageSize - 1) / kPageSize * kPageSize;
    append(extents, start, end);
    at = end;
  }
  return extents;
}

}  // namespace fermata::engine
