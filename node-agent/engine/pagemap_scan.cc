#include "node-agent/engine/pagemap_scan.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>
#include <cstddef>

namespace fermata::engine {
namespace {

// struct page_region, struct pm_scan_arg
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

}  // namespace

Result<UniqueFd> open_pagemap(pid_t pid) {
  UniqueFd pagemap(::open(fmt::format("/proc/{}/pagemap", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap) return errno_failure(errno, fmt::format("opening the page map of process {}", pid));
  return pagemap;
}

Status scan_pages(int pagemap, uint64_t start, uint64_t end, const PageWish& wish,
                  const FoundPages& found) {
  std::array<PageRegion, 512> regions{};
  uint64_t at = start;
  while (at < end) {
    PagemapScan request{};
    request.size = sizeof request;
    request.flags = wish.flags;
    request.start = at;
    request.end = end;
    request.vec = reinterpret_cast<uint64_t>(regions.data());
    request.vec_len = regions.size();
    request.category_inverted = wish.none;
    request.category_mask = wish.all | wish.none;
    request.category_anyof_mask = wish.any;
    // What is returned is of no interest; without it nothing is.
    request.return_mask = wish.all | wish.none | wish.any;
    const int count = ::ioctl(pagemap, kPagemapScan, &request);
    if (count < 0) {
      if (at == start && (errno == ENOTTY || errno == EINVAL)) {
        return {Code::kUnsupported, "this kernel has no PAGEMAP_SCAN (Linux 6.7)"};
      }
      return errno_status(errno, fmt::format("scanning pages at {:#x}", at));
    }
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      found(regions[i].start, regions[i].end, regions[i].categories);
    }
    if (request.walk_end <= at) return {Code::kInternal, "the scan of pages does not advance"};
    at = request.walk_end;
  }
  return Status::ok();
}

Status protect_pages(int pagemap, uint64_t start, uint64_t end) {
  PagemapScan request{};
  request.size = sizeof request;
  request.flags = kScanProtectMatching | kScanCheckAsync;
  request.start = start;
  request.end = end;
  // Without room for results it protects whatever page tables there are for. The masks keep it from
  // making some where there are none: 2 MiB of them for each GiB of address space.
  request.category_mask = kPageIsWritten;
  request.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
  if (::ioctl(pagemap, kPagemapScan, &request) >= 0) return Status::ok();
  return errno_status(errno, fmt::format("protecting pages at {:#x}", start));
}

}  // namespace fermata::engine
