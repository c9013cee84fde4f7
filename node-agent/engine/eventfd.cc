// eventfd(2): a counter.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

// Kernels before 6.5 do not show EFD_SEMAPHORE. A read tells: it takes 1 from a semaphore and
// everything from a counter. The pod is stopped, so nobody sees the value change between these
// calls.
Result<bool> find_out_semaphore(const FileProbe& probe, uint64_t count) {
  const int fd = probe.dup.get();
  const std::string what = fmt::format("{}: finding out its kind", probe.describe());
  pollfd ready{fd, POLLOUT, 0};
  const uint64_t added = count < 2 ? 2 : 0;
  if (added != 0 && (::poll(&ready, 1, 0) != 1 || ::write(fd, &added, sizeof added) < 0)) {
    return errno_failure(errno, what);
  }
  uint64_t taken = 0;
  if (::read(fd, &taken, sizeof taken) != sizeof taken) return errno_failure(errno, what);
  const bool semaphore = taken == 1;
  if (!semaphore) {
    if (count != 0 && ::write(fd, &count, sizeof count) < 0) return errno_failure(errno, what);
    return false;
  }
  if (added == 0) {
    if (::write(fd, &taken, sizeof taken) < 0) return errno_failure(errno, what);
  } else if (::read(fd, &taken, sizeof taken) != sizeof taken) {
    return errno_failure(errno, what);
  }
  return true;
}

class EventfdKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    return probe.link == "anon_inode:[eventfd]";
  }

  Status capture(const FileProbe& probe, CaptureContext&, image::File& out) override {
    FERMATA_ASSIGN_STATUS(const uint64_t count, fdinfo_number(probe, "eventfd-count", 16));
    image::EventFile& event = *out.mutable_event();
    event.set_count(count);
    if (const auto semaphore = fdinfo_field(probe.fdinfo, "eventfd-semaphore")) {
      event.set_semaphore(*semaphore == "1");
    } else {
      FERMATA_ASSIGN_STATUS(const bool found, find_out_semaphore(probe, count));
      event.set_semaphore(found);
    }
    return Status::ok();
  }

  bool owns(const image::File& file) const override { return file.has_event(); }

  Result<UniqueFd> create(const image::File& file, RebuildContext&) override {
    const image::EventFile& event = file.event();
    UniqueFd fd(::eventfd(0, EFD_CLOEXEC | (event.semaphore() ? EFD_SEMAPHORE : 0)));
    if (!fd) return errno_failure(errno, fmt::format("{}: eventfd", holder_of(file)));
    const uint64_t count = event.count();
    if (count == UINT64_MAX) {
      return failure(Code::kDamaged, fmt::format("{}: no eventfd counts so far", holder_of(file)));
    }
    if (count != 0 && ::write(fd.get(), &count, sizeof count) < 0) {
      return errno_failure(errno, fmt::format("{}: setting an eventfd", holder_of(file)));
    }
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }
};

}  // namespace

std::unique_ptr<FileKind> make_eventfd_kind() { return std::make_unique<EventfdKind>(); }

}  // namespace fermata::engine
