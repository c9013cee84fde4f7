#include "node-agent/engine/uffd_tracker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

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

class UffdTracker final : public WriteTracker {
 public:
  UffdTracker(pid_t pid, bool spare_huge_pages, UniqueFd descriptor)
      : pid_(pid), spare_huge_pages_(spare_huge_pages), descriptor_(std::move(descriptor)) {}

  Result<Written> written(const OwnMap& map) const override {
    // Opened anew: of a program executed since, nothing is registered.
    FERMATA_ASSIGN(const UniqueFd pagemap, open_pagemap(pid_));
    Written result;
    // The kernel has a quick way for this one question.
    const Status status = scan_pages(
        pagemap.get(), map.start, map.end, {.all = kPageIsWritten, .flags = kScanCheckAsync},
        [&](uint64_t from, uint64_t to) { append(result.pages, from, to - from); });
    if (status.error_number() == EPERM) {
      result.all = true;
      result.pages.clear();
    } else if (!status) {
      return Failure(status.within(fmt::format("written pages of process {}", pid_)));
    }
    return result;
  }

  Status rearm(std::span<const OwnMap> maps) override {
    FERMATA_ASSIGN_STATUS(const UniqueFd pagemap, open_pagemap(pid_));
    for (const OwnMap& map : maps) {
      // Pages of a file that nobody can write are the file's.
      if (!map.anonymous && !map.writable) continue;
      Status status = protect_pages(pagemap.get(), map.start, map.end);
      if (status.error_number() == EPERM && join(pagemap.get(), map)) {
        status = protect_pages(pagemap.get(), map.start, map.end);
      }
      if (!status && status.error_number() != EPERM) {
        return status.within(fmt::format("process {}", pid_));
      }
    }
    return Status::ok();
  }

  bool notices_loss() const override { return true; }

  bool is_ours(uint64_t start, uint64_t end) const override {
    const Extents range{{start, end - start}};
    return common_part(range, registered_) == range;
  }

 private:
  /// Registers a map. False: it is spared, or cannot be: being the program's own userfaultfd's, or
  /// changed just now.
  bool join(int pagemap, const OwnMap& map) {
    if (spare_huge_pages_) {
      bool huge = false;
      const Status status = scan_pages(pagemap, map.start, map.end, {.all = kPageIsHuge},
                                       [&](uint64_t, uint64_t) { huge = true; });
      if (!status || huge) return false;
    }
    uffdio_register request{};
    request.range = {map.start, map.end - map.start};
    request.mode = UFFDIO_REGISTER_MODE_WP;
    if (::ioctl(descriptor_.get(), UFFDIO_REGISTER, &request) != 0) return false;
    registered_ = united(registered_, {{map.start, map.end - map.start}});
    return true;
  }

  pid_t pid_;
  bool spare_huge_pages_;
  UniqueFd descriptor_;
  Extents registered_;
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
                      [](uint64_t, uint64_t) {});
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
