// timerfd_create(2): clock, next expiration, interval, expirations not read yet.
//
// A timer that was set to a moment of the real-time clock keeps that moment, even if it lies in the
// past at the restart; every other one goes on with what was left of it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>

#include <chrono>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS, <linux/timerfd.h>
constexpr int64_t kSecond = 1'000'000'000;
constexpr uint32_t kCancelOnSet = 1U << 1;

/// A timer that is due and whose interrupt has not come yet has no time left and no tick, as one
/// that is not set (fs/timerfd.c, timerfd_get_remaining; 1 look in 4,000 at a timer of 100 us,
/// Linux 6.18): so long is looked again. One with an interval is hardly ever not set; one without
/// often is, and the job stands still meanwhile.
constexpr std::chrono::milliseconds kRepeatingIsLate{100};
constexpr std::chrono::milliseconds kOneShotIsLate{2};
constexpr std::chrono::microseconds kBetweenLooks{50};

int64_t to_ns(const timespec& time) { return int64_t{time.tv_sec} * kSecond + time.tv_nsec; }
timespec from_ns(int64_t ns) { return {ns / kSecond, ns % kSecond}; }

bool follows_real_time(int clock) {
  return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM;
}

class TimerfdKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    return probe.link == "anon_inode:[timerfd]";
  }

  Status capture(const FileProbe& probe, CaptureContext&, image::File& out) override {
    image::TimerFile& timer = *out.mutable_timer();
    FERMATA_ASSIGN_STATUS(const uint64_t clock, fdinfo_number(probe, "clockid", 10));
    FERMATA_ASSIGN_STATUS(const uint64_t flags, fdinfo_number(probe, "settime flags", 8));
    timer.set_clock(static_cast<int32_t>(clock));
    timer.set_settime_flags(static_cast<uint32_t>(flags));
    Seen seen{probe.dup.get(), probe.describe(), out.id(), Clock::now()};
    FERMATA_ASSIGN_STATUS(const Look found, look(seen, timer));
    if (found.sure) return Status::ok();
    unsure_.emplace_back(::fcntl(probe.dup.get(), F_DUPFD_CLOEXEC, 0));
    if (!unsure_.back()) return errno_status(errno, seen.what);
    seen.fd = unsure_.back().get();
    seen_.push_back(std::move(seen));
    return Status::ok();
  }

  /// Those that were not sure, all at once: while one is waited for, so are the others.
  Status finish_capture(CaptureContext&, image::PodObjects& objects) override {
    for (const Seen& seen : seen_) {
      image::TimerFile& timer =
          *objects.mutable_files(static_cast<int>(seen.file) - 1)->mutable_timer();
      for (;;) {
        const auto since = Clock::now() - seen.first;
        FERMATA_ASSIGN_STATUS(const Look found, look(seen, timer));
        if (found.sure || since >= found.late) break;
        if (timer.value_ns() == 0) std::this_thread::sleep_for(kBetweenLooks);
      }
    }
    seen_.clear();
    unsure_.clear();
    return Status::ok();
  }

  bool owns(const image::File& file) const override { return file.has_timer(); }

  Result<UniqueFd> create(const image::File& file, RebuildContext&) override {
    const image::TimerFile& timer = file.timer();
    const std::string what = fmt::format("{}: timerfd of clock {}", holder_of(file), timer.clock());
    if (timer.interval_ns() < 0 || timer.value_ns() < 0 || timer.expires_ns() < 0) {
      return failure(Code::kDamaged, fmt::format("{} has a negative time", what));
    }
    UniqueFd fd(::timerfd_create(timer.clock(), TFD_CLOEXEC));
    if (!fd) return errno_failure(errno, what);
    const bool absolute = timer.expires_ns() != 0;
    const itimerspec value{from_ns(timer.interval_ns()),
                           from_ns(absolute ? timer.expires_ns() : timer.value_ns())};
    const int flags =
        absolute ? TFD_TIMER_ABSTIME | static_cast<int>(timer.settime_flags() & kCancelOnSet) : 0;
    if (::timerfd_settime(fd.get(), flags, &value, nullptr) != 0) return errno_failure(errno, what);
    // After timerfd_settime, which clears them. Zero ticks are what a new timer has.
    const uint64_t ticks = timer.ticks();
    if (ticks != 0 && ::ioctl(fd.get(), kSetTicks, &ticks) != 0) return errno_failure(errno, what);
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Seen {
    int fd = -1;
    std::string what;   ///< FileProbe::describe()
    uint32_t file = 0;  ///< its id
    Clock::time_point first;
  };
  struct Look {
    bool sure = false;
    std::chrono::milliseconds late{0};  ///< so long after the first look it is taken as it is
  };

  /// timerfd_gettime counts the intervals that passed since an expiration nobody read and arms the
  /// timer for the next one (fs/timerfd.c, do_timerfd_gettime); only then do the ticks in fdinfo
  /// tell everything. An expiration between the two calls shows as a timer with an interval and no
  /// time left: not sure.
  static Result<Look> look(const Seen& seen, image::TimerFile& timer) {
    itimerspec value{};
    timespec now{};
    if (::timerfd_gettime(seen.fd, &value) != 0 || ::clock_gettime(CLOCK_REALTIME, &now) != 0) {
      return errno_failure(errno, fmt::format("{}: reading a timer", seen.what));
    }
    FERMATA_ASSIGN(const std::string info, own_fdinfo(seen.fd));
    const auto ticks = fdinfo_field(info, "ticks");
    const auto left = fdinfo_field(info, "it_value");
    if (!ticks || !left) {
      return failure(
          Code::kCannotHold,
          fmt::format("{}: this kernel does not show the ticks of a timerfd in fdinfo", seen.what));
    }
    const bool armed = to_ns(value.it_value) != 0;
    const bool repeats = to_ns(value.it_interval) != 0;
    const bool again = armed ? *left == "(0, 0)" : repeats || *ticks == "0";
    // It expires faster than it can be read: the next time an interval after the last.
    if (again && *ticks != "0") value.it_value = value.it_interval;
    timer.set_ticks(std::stoull(*ticks));
    timer.set_interval_ns(to_ns(value.it_interval));
    timer.set_value_ns(to_ns(value.it_value));
    timer.clear_expires_ns();
    const bool absolute = (timer.settime_flags() & TFD_TIMER_ABSTIME) != 0;
    if (armed && follows_real_time(timer.clock()) && absolute) {
      timer.set_expires_ns(to_ns(now) + to_ns(value.it_value));
    }
    return Look{!again, armed || repeats ? kRepeatingIsLate : kOneShotIsLate};
  }

  std::vector<UniqueFd> unsure_;
  std::vector<Seen> seen_;  ///< those of unsure_
};

}  // namespace

std::unique_ptr<FileKind> make_timerfd_kind() { return std::make_unique<TimerfdKind>(); }

}  // namespace fermata::engine
