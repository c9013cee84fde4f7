// Asleep in nanosleep(2): the rest of the sleep is slept, no more, and nobody is told.
#include "tests/states/state.h"

int main() {
  state::timed_wait(SYS_clock_nanosleep, [] {
    const timespec time{state::kTimeoutMs / 1000, 0};
    CHECK(nanosleep(&time, nullptr) == 0, "nanosleep was interrupted");
  });
  state::pass();
}
