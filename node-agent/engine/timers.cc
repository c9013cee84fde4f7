#include "node-agent/engine/timers.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <vector>

#include "common/file_util.h"

namespace fermata::engine {
namespace {

constexpr std::array<int, 3> kIntervalTimers{ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
constexpr int kMostTimerIds = 100'000;
constexpr uint64_t kPrTimerCreateRestoreIds = 77;  // Linux 6.15

struct KernelTimerSpec {
  std::array<int64_t, 2> interval;
  std::array<int64_t, 2> value;
};

// struct sigevent as the kernel has it on x86-64: 64 bytes.
struct KernelSigevent {
  uint64_t value;
  int32_t signo;
  int32_t notify;
  int32_t tid;
  std::array<char, 44> pad;
};
static_assert(sizeof(KernelSigevent) == 64);

/// /proc/PID/timers (proc(5)): four lines a timer.
Status parse_timers(const std::string& text, const std::map<pid_t, int>& vtids,
                    const HeldProcess& process, image::Process& out) {
  std::istringstream lines(text);
  std::string line;
  image::PosixTimer* timer = nullptr;
  while (std::getline(lines, line)) {
    int number = 0;
    uint64_t value = 0;
    char how[16] = {};
    char whom[8] = {};
    if (std::sscanf(line.c_str(), "ID: %d", &number) == 1) {
      timer = out.add_posix_timers();
      timer->set_id(number);
    } else if (timer != nullptr &&
               std::sscanf(line.c_str(), "signal: %d/%lx", &number, &value) == 2) {
      timer->set_signo(number);
      timer->set_value(value);
    } else if (timer != nullptr &&
               std::sscanf(line.c_str(), "notify: %15[^/]/%7[^.].%d", how, whom, &number) == 3) {
      const std::string_view kind = how;
      timer->set_notify(kind == "signal"   ? SIGEV_SIGNAL
                        : kind == "thread" ? SIGEV_THREAD
                                           : SIGEV_NONE);
      if (std::string_view(whom) == "tid") {
        const auto found = vtids.find(number);
        if (found == vtids.end()) {
          return {Code::kCannotHold, fmt::format("{}: timer {} signals thread {}, which is gone",
                                                 process.describe(), timer->id(), number)};
        }
        timer->set_notify(timer->notify() | SIGEV_THREAD_ID);
        timer->set_vtid(found->second);
      }
    } else if (timer != nullptr && std::sscanf(line.c_str(), "ClockID: %d", &number) == 1) {
      if (number < 0) {
        return {Code::kCannotHold,
                fmt::format("{}: timer {} runs on a CPU-time or device clock ({}), which cannot be "
                            "rebuilt",
                            process.describe(), timer->id(), number)};
      }
      timer->set_clock(number);
    }
  }
  return Status::ok();
}

Status capture_posix_timers(const HeldProcess& process, CaptureRemote& remote,
                            const std::map<pid_t, int>& vtids, image::Process& out) {
  const Result<std::string> text = read_file(fmt::format("/proc/{}/timers", process.pid));
  if (!text || text->empty()) return Status::ok();
  FERMATA_TRY(parse_timers(*text, vtids, process, out));
  // Numbers count up where a kernel cannot be told which to give: in that order they are made
  // again.
  std::sort(out.mutable_posix_timers()->begin(), out.mutable_posix_timers()->end(),
            [](const image::PosixTimer& a, const image::PosixTimer& b) { return a.id() < b.id(); });
  const uint64_t args = remote.argument_address();
  for (image::PosixTimer& timer : *out.mutable_posix_timers()) {
    const auto id = static_cast<uint64_t>(timer.id());
    std::array<RemoteCall, 2> calls{RemoteCall{SYS_timer_gettime, {id, args}, 0},
                                    RemoteCall{SYS_timer_getoverrun, {id}, 0}};
    FERMATA_TRY(remote.run(calls));
    if (calls[0].result != 0) {
      return errno_status(static_cast<int>(-calls[0].result),
                          fmt::format("reading timer {} of {}", id, process.describe()));
    }
    KernelTimerSpec spec{};
    FERMATA_TRY(remote.get(args, spec));
    timer.mutable_interval()->set_sec(spec.interval[0]);
    timer.mutable_interval()->set_nsec(spec.interval[1]);
    timer.mutable_remaining()->set_sec(spec.value[0]);
    timer.mutable_remaining()->set_nsec(spec.value[1]);
    timer.set_overrun(static_cast<int32_t>(calls[1].result));
  }
  return Status::ok();
}

Status create_timer(RebuildRemote& remote, const image::PosixTimer& timer, bool exact_ids) {
  const uint64_t args = remote.argument_address();
  struct Arguments {
    KernelSigevent event;
    int32_t id;
  };
  Arguments arguments{};
  arguments.event.value = timer.value();
  arguments.event.signo = timer.signo();
  arguments.event.notify = timer.notify();
  arguments.event.tid = timer.vtid();
  const uint64_t id_place = args + offsetof(Arguments, id);
  // Older kernels count ids up for each timer made: make and delete until the wanted one comes.
  for (int tries = 0; tries <= kMostTimerIds; ++tries) {
    arguments.id = timer.id();
    FERMATA_TRY(remote.put(args, arguments));
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const long made,
                          remote.call("timer_create", SYS_timer_create,
                                      {static_cast<uint64_t>(timer.clock()), args, id_place}));
    int32_t id = -1;
    FERMATA_TRY(remote.get(id_place, id));
    if (id == timer.id()) return Status::ok();
    FERMATA_ASSIGN_STATUS(
        [[maybe_unused]] const long gone,
        remote.call("timer_delete", SYS_timer_delete, {static_cast<uint64_t>(id)}));
    if (exact_ids || id > timer.id()) break;
  }
  return {Code::kConflict, fmt::format("POSIX timer {} cannot have its number again", timer.id())};
}

}  // namespace

Status capture_timers(const HeldProcess& process, CaptureRemote& remote,
                      const std::map<pid_t, int>& vtids, image::Process& out) {
  const uint64_t args = remote.argument_address();
  std::array<RemoteCall, 3> calls{};
  for (size_t i = 0; i < calls.size(); ++i) {
    calls[i] = {SYS_getitimer,
                {static_cast<uint64_t>(kIntervalTimers[i]), args + i * sizeof(itimerval)},
                0};
  }
  FERMATA_TRY(remote.run(calls));
  std::array<itimerval, 3> values{};
  FERMATA_TRY(remote.get(args, values));
  constexpr int64_t kMicro = 1'000'000;
  for (size_t i = 0; i < calls.size(); ++i) {
    const itimerval& value = values[i];
    const int64_t interval = value.it_interval.tv_sec * kMicro + value.it_interval.tv_usec;
    int64_t left = value.it_value.tv_sec * kMicro + value.it_value.tv_usec;
    // ITIMER_REAL starts its next period when its signal is delivered (setitimer(2)): one that is
    // due, with SIGALRM pending, says that nothing is left.
    if (left == 0 && interval > 0) left = 1;
    if (left == 0) continue;
    image::IntervalTimer& timer = *out.add_interval_timers();
    timer.set_which(kIntervalTimers[i]);
    timer.set_interval_us(static_cast<uint64_t>(interval));
    timer.set_value_us(static_cast<uint64_t>(left));
  }
  return capture_posix_timers(process, remote, vtids, out);
}

Status rebuild_timers(RebuildRemote& remote, const image::Process& process) {
  const uint64_t args = remote.argument_address();
  if (process.posix_timers_size() > 0) {
    RemoteCall exact{SYS_prctl, {kPrTimerCreateRestoreIds, 1}, 0};
    FERMATA_TRY(remote.run(std::span(&exact, 1)));
    // Ascending: a kernel that counts ids up never comes back to a lower one.
    std::vector<const image::PosixTimer*> timers;
    for (const image::PosixTimer& timer : process.posix_timers()) timers.push_back(&timer);
    std::sort(timers.begin(), timers.end(),
              [](const auto* one, const auto* other) { return one->id() < other->id(); });
    for (const image::PosixTimer* timer : timers) {
      FERMATA_TRY(create_timer(remote, *timer, exact.result == 0));
    }
    if (exact.result == 0) {
      exact = {SYS_prctl, {kPrTimerCreateRestoreIds, 0}, 0};
      FERMATA_TRY(remote.run(std::span(&exact, 1)));
    }
    for (const image::PosixTimer& timer : process.posix_timers()) {
      const KernelTimerSpec spec{{timer.interval().sec(), timer.interval().nsec()},
                                 {timer.remaining().sec(), timer.remaining().nsec()}};
      FERMATA_TRY(remote.put(args, spec));
      FERMATA_ASSIGN_STATUS([[maybe_unused]] const long set,
                            remote.call("timer_settime", SYS_timer_settime,
                                        {static_cast<uint64_t>(timer.id()), 0, args, 0}));
    }
  }
  for (const image::IntervalTimer& timer : process.interval_timers()) {
    constexpr uint64_t kMicro = 1'000'000;
    itimerval value{};
    value.it_interval.tv_sec = static_cast<time_t>(timer.interval_us() / kMicro);
    value.it_interval.tv_usec = static_cast<suseconds_t>(timer.interval_us() % kMicro);
    value.it_value.tv_sec = static_cast<time_t>(timer.value_us() / kMicro);
    value.it_value.tv_usec = static_cast<suseconds_t>(timer.value_us() % kMicro);
    FERMATA_TRY(remote.put(args, value));
    FERMATA_ASSIGN_STATUS(
        [[maybe_unused]] const long set,
        remote.call("setitimer", SYS_setitimer, {static_cast<uint64_t>(timer.which()), args, 0}));
  }
  return Status::ok();
}

}  // namespace fermata::engine
