// Interval timers of all three clocks: remaining time and period go on.
#include <sys/time.h>

#include <csignal>

#include "tests/states/state.h"

namespace {
volatile sig_atomic_t alarms = 0;
void handler(int) { alarms = alarms + 1; }

void check(int which, long least, long most, long every, const char* name) {
  itimerval now{};
  getitimer(which, &now);
  CHECK(now.it_interval.tv_sec == every, "%s: every %ld s", name, now.it_interval.tv_sec);
  CHECK(now.it_value.tv_sec >= least && now.it_value.tv_sec <= most, "%s: due in %ld s", name,
        now.it_value.tv_sec);
}
}  // namespace

int main() {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval fast{{0, 20000}, {0, 20000}};
  const itimerval slow{{7, 0}, {1000, 0}};
  const itimerval prof{{9, 0}, {2000, 0}};
  state::must(setitimer(ITIMER_REAL, &fast, nullptr), "ITIMER_REAL");
  state::must(setitimer(ITIMER_VIRTUAL, &slow, nullptr), "ITIMER_VIRTUAL");
  state::must(setitimer(ITIMER_PROF, &prof, nullptr), "ITIMER_PROF");
  state::hold();
  const int before = alarms;
  const int64_t until = state::now_ms() + 200 + state::late_ms();
  while (alarms < before + 5) {
    CHECK(state::now_ms() < until, "ITIMER_REAL no longer ticks");
    state::sleep_ms(2);
  }
  check(ITIMER_REAL, 0, 0, 0, "ITIMER_REAL");
  check(ITIMER_VIRTUAL, 990, 1000, 7, "ITIMER_VIRTUAL");
  check(ITIMER_PROF, 1990, 2000, 9, "ITIMER_PROF");
  state::pass();
}
