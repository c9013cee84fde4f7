// timerfds: a one-shot not yet due, a periodic one with unread ticks, one that is set but was read,
// one not set.
#include <sys/timerfd.h>

#include "tests/states/state.h"

namespace {
int make(int64_t first_ms, int64_t every_ms) {
  const int fd = state::must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), "timerfd_create");
  const itimerspec when{{every_ms / 1000, every_ms % 1000 * 1000000},
                        {first_ms / 1000, first_ms % 1000 * 1000000}};
  state::must(timerfd_settime(fd, 0, &when, nullptr), "timerfd_settime");
  return fd;
}
}  // namespace

int main() {
  const int once = make(3000, 0);
  const int64_t due = state::now_ms() + 3000;
  const int periodic = make(10, 20);
  const int hour = make(3600000, 60000);
  const int idle = state::must(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC), "timerfd_create");
  const int fired = make(10, 0);
  const int64_t start = state::now_ms();
  state::sleep_ms(200);
  state::hold();
  uint64_t ticks = 0;
  CHECK(read(fired, &ticks, 8) == 8 && ticks == 1, "the one-shot that was due gave %lu", ticks);
  state::must(read(periodic, &ticks, 8), "read of the periodic timer");
  // Unread ticks are kept; at a cut the clock and the ticks are read one after the other, and the
  // time that a restart takes may pass without any.
  const int64_t most = (state::now_ms() - start + state::late_ms()) / 20 + 2;
  CHECK(static_cast<int64_t>(ticks) >= 9 && static_cast<int64_t>(ticks) <= most,
        "the periodic timer ticked %lu times, at most %ld were due", ticks, most);
  state::sleep_ms(100);
  CHECK(read(periodic, &ticks, 8) == 8 && ticks >= 3, "the periodic timer ticks no more");
  itimerspec now{};
  timerfd_gettime(hour, &now);
  CHECK(now.it_interval.tv_sec == 60 && now.it_value.tv_sec > 3500 && now.it_value.tv_sec < 3600,
        "the long timer is due in %ld s, every %ld s", now.it_value.tv_sec, now.it_interval.tv_sec);
  timerfd_gettime(idle, &now);
  CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0, "a timer that was not set runs");
  while (read(once, &ticks, 8) != 8) state::sleep_ms(2);
  const int64_t late = state::now_ms() - due;
  // The pod's clock runs while it is rebuilt, its timers from when they are made.
  CHECK(late >= -2 && late < state::late_ms(), "the one-shot fired %ld ms late", late);
  state::pass();
}
