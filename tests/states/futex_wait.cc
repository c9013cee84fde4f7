// Waiting on a futex with a relative timeout (a restart block in the kernel,
// ERESTART_RESTARTBLOCK).
#include <linux/futex.h>

#include "tests/states/state.h"

int main() {
  static uint32_t word = 7;
  state::timed_wait(SYS_futex, state::Rest::kTellsWhenHeld, [] {
    const timespec time{state::kTimeoutMs / 1000, 0};
    const long result = syscall(SYS_futex, &word, FUTEX_WAIT, 7, &time, nullptr, 0);
    CHECK(result == -1 && errno == ETIMEDOUT, "futex wait returned %ld, errno %d", result, errno);
  });
  CHECK(word == 7, "the futex word changed");
  state::pass();
}
