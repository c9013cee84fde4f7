// Asleep until a moment of CLOCK_MONOTONIC, which must keep its meaning after a restart.
#include "tests/states/state.h"

int main() {
  state::timed_wait(SYS_clock_nanosleep, state::Rest::kAlwaysTold, [] {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += state::kTimeoutMs / 1000;
    const int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
    CHECK(error == 0, "clock_nanosleep: error %d", error);
  });
  state::pass();
}
