// PAGEMAP_SCAN, since Linux 6.7 (Documentation/admin-guide/mm/pagemap.rst): which pages of a
// process are of some kind, and write-protecting them in the same go. Any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::engine {

// <linux/fs.h> of Debian 12 does not have these yet: PAGE_IS_*, PM_SCAN_*.
constexpr uint64_t kPageIsWritten = 1 << 1;
constexpr uint64_t kPageIsFile = 1 << 2;
constexpr uint64_t kPageIsPresent = 1 << 3;
constexpr uint64_t kPageIsSwapped = 1 << 4;
constexpr uint64_t kPageIsZero = 1 << 5;
constexpr uint64_t kPageIsHuge = 1 << 6;

constexpr uint64_t kScanProtectMatching = 1 << 0;
constexpr uint64_t kScanCheckAsync = 1 << 1;

/// Which pages: those that have all of `all`, none of `none`, and one of `any` if that is not 0.
struct PageWish {
  uint64_t all = 0;
  uint64_t none = 0;
  uint64_t any = 0;
  uint64_t flags = 0;  ///< kScan*
};

/// /proc/PID/pagemap, of the address space that the process has now.
Result<UniqueFd> open_pagemap(pid_t pid);

/// `is`: of what the wish names, which the pages are.
using FoundPages = std::function<void(uint64_t start, uint64_t end, uint64_t is)>;

/// Calls `found` for each run of such pages of [start, end), in order. `pagemap` is
/// /proc/PID/pagemap. kUnsupported: this kernel has no such call.
Status scan_pages(int pagemap, uint64_t start, uint64_t end, const PageWish& wish,
                  const FoundPages& found);

/// Write-protects, for userfaultfd, every page of [start, end) that is in memory or in swap. Where
/// there is no page between others it leaves a mark, which PAGEMAP_SCAN takes for a page in swap.
/// Fails with EPERM where a map is not registered for that.
Status protect_pages(int pagemap, uint64_t start, uint64_t end);

}  // namespace fermata::engine
