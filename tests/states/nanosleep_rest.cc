// Asleep in nanosleep(2) with a place for the rest: exactly the rest is slept after a restart.
#include "tests/states/state.h"

int main() {
  state::timed_wait(SYS_clock_nanosleep, state::Rest::kAlwaysTold, [] {
    const timespec time{state::kTimeoutMs / 1000, 0};
    timespec rest{};
    CHECK(nanosleep(&time, &rest) == 0, "nanosleep was interrupted");
  });
  state::pass();
}
