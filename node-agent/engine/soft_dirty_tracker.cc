#include "node-agent/engine/soft_dirty_tracker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "node-agent/engine/pagemap_scan.h"

namespace fermata::engine {
namespace {

constexpr uint64_t kSoftDirty = 1ULL << 55;

Status clear_bits(pid_t pid) {
  const UniqueFd file(
      ::open(fmt::format("/proc/{}/clear_refs", pid).c_str(), O_WRONLY | O_CLOEXEC));
  if (file && ::write(file.get(), "4", 1) == 1) return Status::ok();
  return errno_status(errno, fmt::format("/proc/{}/clear_refs", pid));
}

/// Appends the pages of [start, end) whose bit is set.
Status dirty_pages(int pagemap, uint64_t start, uint64_t end, Extents& pages) {
  std::vector<uint64_t> entries(std::min<uint64_t>(65536, (end - start) / kPageSize));
  for (uint64_t at = start; at < end;) {
    const uint64_t want = std::min<uint64_t>(entries.size(), (end - at) / kPageSize);
    const ssize_t got = ::pread(pagemap, entries.data(), want * sizeof(uint64_t),
                                static_cast<off_t>(at / kPageSize * sizeof(uint64_t)));
    if (got <= 0) return errno_status(got == 0 ? EIO : errno, "reading the page map");
    const uint64_t count = static_cast<uint64_t>(got) / sizeof(uint64_t);
    for (uint64_t i = 0; i < count; ++i) {
      if ((entries[i] & kSoftDirty) != 0) append(pages, at + i * kPageSize, kPageSize);
    }
    at += count * kPageSize;
  }
  return Status::ok();
}

class SoftDirtyTracker final : public WriteTracker {
 public:
  explicit SoftDirtyTracker(pid_t pid) : pid_(pid) {}

  Result<Written> written(const OwnMap& map) const override {
    Written result;
    result.all = !armed_;
    if (result.all) return result;
    FERMATA_ASSIGN(const UniqueFd pagemap, open_pagemap(pid_));
    FERMATA_TRY_RESULT(dirty_pages(pagemap.get(), map.start, map.end, result.pages));
    return result;
  }

  Status rearm(std::span<const OwnMap> /*maps*/) override {
    FERMATA_TRY(clear_bits(pid_));
    armed_ = true;
    return Status::ok();
  }

  bool notices_loss() const override { return false; }
  bool is_ours(uint64_t /*start*/, uint64_t /*end*/) const override { return false; }

 private:
  pid_t pid_;
  bool armed_ = false;
};

/// Asked of a page of our own: the files are there also where the kernel lacks the bits.
bool kernel_has_bits() {
  void* page =
      ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  *static_cast<volatile char*>(page) = 1;
  const auto at = reinterpret_cast<uint64_t>(page);
  Extents pages;
  const Result<UniqueFd> pagemap = open_pagemap(::getpid());
  const bool set =
      pagemap && dirty_pages(pagemap->get(), at, at + kPageSize, pages) && !pages.empty();
  ::munmap(page, kPageSize);
  return set;
}

}  // namespace

Status soft_dirty_is_usable() {
  static const bool usable = kernel_has_bits();
  if (usable) return Status::ok();
  return {Code::kUnsupported, "this kernel has no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)"};
}

Result<std::unique_ptr<WriteTracker>> start_soft_dirty(pid_t pid) {
  return std::unique_ptr<WriteTracker>(std::make_unique<SoftDirtyTracker>(pid));
}

}  // namespace fermata::engine
