// Asleep in nanosleep(2) with no place for the rest: it sleeps on, and nobody is told.
#include "tests/states/state.h"

int main() {
  state::timed_wait(SYS_clock_nanosleep, state::Rest::kTellsWhenHeld, [] {
    const timespec time{state::kTimeoutMs / 1000, 0};
    CHECK(nanosleep(&time, nullptr) == 0, "nanosleep was interrupted");
  });
  state::pass();
}
