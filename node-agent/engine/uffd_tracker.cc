#include "node-agent/engine/uffd_tracker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "node-agent/engine/pagemap_scan.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

namespace fermata::engine {
namespace {

// <linux/userfaultfd.h> of Debian 12 does not have these yet.
constexpr uint64_t kWpUnpopulated = 1 << 13;
constexpr uint64_t kWpAsync = 1 << 15;

// Without CAP_SYS_PTRACE a process gets one for faults of user mode only (userfaultfd(2)); those of
// the kernel are resolved just as well where nobody has to answer them.
constexpr uint64_t kFlags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;

Status shake_hands(int descriptor) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kWpAsync | kWpUnpopulated;
  if (::ioctl(descriptor, UFFDIO_API, &api) == 0) return Status::ok();
  return errno_status(Code::kUnsupported, errno, "userfaultfd that notes writes (Linux 6.7)");
}

constexpr uint64_t kTable = 2 << 20;  // what one page table maps

bool register_range(int descriptor, uint64_t start, uint64_t end) {
  uffdio_register request{};
  request.range = {start, end - start};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  return ::ioctl(descriptor, UFFDIO_REGISTER, &request) == 0;
}

/// 0.6 ms a GiB of small pages.
bool has_huge_pages(int pagemap, const OwnMap& map) {
  if ((map.start + kHugePage - 1) / kHugePage * kHugePage + kHugePage > map.end) return false;
  bool huge = false;
  const Status status = scan_pages(pagemap, map.start, map.end, {.all = kPageIsHuge},
                                   [&](uint64_t, uint64_t, uint64_t) { huge = true; });
  return huge || !status;
}

/// Whether pages count as written that are no more, and their page table with them (Linux 6.18
/// does): asked of memory of our own that never had one.
bool kernel_notices_lost_tables() {
  constexpr size_t kRoom = 2 * kTable;
  void* room = ::mmap(nullptr, kRoom, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return false;
  const uint64_t table = (reinterpret_cast<uint64_t>(room) + kTable - 1) / kTable * kTable;
  const UniqueFd descriptor(static_cast<int>(::syscall(SYS_userfaultfd, kFlags)));
  const Result<UniqueFd> pagemap = open_pagemap(::getpid());
  uint64_t bytes = 0;
  if (descriptor && pagemap && shake_hands(descriptor.get()) &&
      register_range(descriptor.get(), table, table + kTable)) {
    const Status scanned = scan_pages(
        pagemap->get(), table, table + kTable, {.all = kPageIsWritten, .flags = kScanCheckAsync},
        [&](uint64_t from, uint64_t to, uint64_t) { bytes += to - from; });
    if (!scanned) bytes = 0;
  }
  ::munmap(room, kRoom);
  return bytes == kTable;
}

/// Pages of a file that nobody can write are the file's.
bool is_of_interest(const OwnMap& map) { return map.anonymous || map.writable; }

class UffdTracker final : public WriteTracker {
 public:
  UffdTracker(pid_t pid, bool spare_huge_pages, UniqueFd descriptor)
      : pid_(pid), spare_huge_pages_(spare_huge_pages), descriptor_(std::move(descriptor)) {}

  Result<Written> written(const OwnMap& map) const override {
    // The kernel has a quick way for this one question.
    return look(map, {.all = kPageIsWritten, .flags = kScanCheckAsync});
  }

  Result<Written> take(const OwnMap& map) override {
    return look(map, {.all = kPageIsWritten,
                      .any = kPageIsPresent | kPageIsSwapped,
                      .flags = kScanProtectMatching | kScanCheckAsync});
  }

  Status rearm(std::span<const OwnMap> maps) override {
    FERMATA_ASSIGN_STATUS(const UniqueFd pagemap, open_pagemap(pid_));
    for (const OwnMap& map : maps) {
      if (!is_of_interest(map)) continue;
      if (spare_huge_pages_ && has_huge_pages(pagemap.get(), map)) {
        part(map);
        continue;
      }
      Status status = protect_pages(pagemap.get(), map.start, map.end);
      // False: it cannot be, being the program's own userfaultfd's, or changed just now.
      if (status.error_number() == EPERM && register_range(descriptor_.get(), map.start, map.end)) {
        status = protect_pages(pagemap.get(), map.start, map.end);
      }
      if (!status && status.error_number() != EPERM) {
        return status.within(fmt::format("process {}", pid_));
      }
    }
    return Status::ok();
  }

  void cover(std::span<const OwnMap> maps) override {
    for_trackable(maps, [&](int, const OwnMap& map) {
      register_range(descriptor_.get(), map.start, map.end);
    });
  }

  void protect(std::span<const OwnMap> maps) override {
    // What fails is told as not tracked.
    for_trackable(maps, [](int pagemap, const OwnMap& map) {
      static_cast<void>(protect_pages(pagemap, map.start, map.end));
    });
  }

  bool notices_loss() const override {
    static const bool noticed = kernel_notices_lost_tables();
    return noticed;
  }

  // Only the kernel knows: maps grow, shrink, move and come anew.
  // To register again what is registered changes nothing; what another userfaultfd has is refused
  // (EBUSY, ioctl_userfaultfd(2)).
  bool is_ours(uint64_t start, uint64_t end) const override {
    return register_range(descriptor_.get(), start, end);
  }

 private:
  void for_trackable(std::span<const OwnMap> maps,
                     const std::function<void(int pagemap, const OwnMap& map)>& call) const {
    const Result<UniqueFd> pagemap = open_pagemap(pid_);
    if (!pagemap) return;
    for (const OwnMap& map : maps) {
      if (!is_of_interest(map)) continue;
      if (spare_huge_pages_ && has_huge_pages(pagemap->get(), map)) continue;
      call(pagemap->get(), map);
    }
  }

  Result<Written> look(const OwnMap& map, const PageWish& wish) const {
    // Opened anew: of a program executed since, nothing is registered.
    FERMATA_ASSIGN(const UniqueFd pagemap, open_pagemap(pid_));
    Written result;
    const Status status = scan_pages(
        pagemap.get(), map.start, map.end, wish,
        [&](uint64_t from, uint64_t to, uint64_t) { append(result.pages, from, to - from); });
    if (status.error_number() == EPERM) {
      result.all = true;
      result.pages.clear();
    } else if (!status) {
      return Failure(status.within(fmt::format("written pages of process {}", pid_)));
    }
    return result;
  }

  /// Tracks the map no more, if it did. Its pages stay as they are, huge ones also when written.
  void part(const OwnMap& map) const {
    const Result<Written> first = written({map.start, map.start + kPageSize, true, true});
    // Before Linux 6.14 a map may be taken from another's userfaultfd, too.
    if (!first || first->all || !is_ours(map.start, map.end)) return;
    uffdio_range range{map.start, map.end - map.start};
    (void)::ioctl(descriptor_.get(), UFFDIO_UNREGISTER, &range);  // changed just now: as it was
  }

  pid_t pid_;
  bool spare_huge_pages_;
  UniqueFd descriptor_;
};

}  // namespace

Status uffd_is_usable() {
  static const Status usable = []() -> Status {
    const UniqueFd descriptor(static_cast<int>(::syscall(SYS_userfaultfd, kFlags)));
    if (!descriptor) return errno_status(Code::kUnsupported, errno, "userfaultfd");
    FERMATA_TRY(shake_hands(descriptor.get()));
    FERMATA_ASSIGN_STATUS(const UniqueFd pagemap, open_pagemap(::getpid()));
    const auto here = reinterpret_cast<uint64_t>(&kFlags) / kPageSize * kPageSize;
    return scan_pages(pagemap.get(), here, here + kPageSize, {.all = kPageIsPresent},
                      [](uint64_t, uint64_t, uint64_t) {});
  }();
  return usable;
}

Result<std::unique_ptr<WriteTracker>> start_uffd(bool spare_huge_pages, Remote& remote) {
  FERMATA_ASSIGN(const long made, remote.call("userfaultfd", SYS_userfaultfd, {kFlags}));
  const int number = static_cast<int>(made);
  Result<UniqueFd> ours = remote.take_fd(number);
  FERMATA_ASSIGN([[maybe_unused]] const long closed,
                 remote.call("close", SYS_close, {static_cast<uint64_t>(number)}));
  if (!ours) return Failure(std::move(ours).error());
  FERMATA_TRY_RESULT(shake_hands(ours->get()));
  return std::unique_ptr<WriteTracker>(
      std::make_unique<UffdTracker>(remote.pid(), spare_huge_pages, *std::move(ours)));
}

}  // namespace fermata::engine
