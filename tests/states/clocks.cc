// CLOCK_MONOTONIC and CLOCK_BOOTTIME, by vDSO and by system call, in two threads and a child: never
// back, no jump but the time the program stood still, and CPU clocks that do not run away.
#include <algorithm>

#include "tests/states/state.h"

namespace {
void watch() {
  int64_t last[4] = {};
  int64_t longest[4] = {};
  int64_t farthest = 0;
  for (bool last_round = false; !last_round;) {
    last_round = state::go();
    timespec raw{};
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &raw);
    const int64_t now[4] = {state::clock_ns(CLOCK_MONOTONIC),
                            int64_t{1000000000} * raw.tv_sec + raw.tv_nsec,
                            state::clock_ns(CLOCK_BOOTTIME), state::clock_ns(CLOCK_MONOTONIC_RAW)};
    for (int i = 0; i < 4; i++) {
      CHECK(last[i] == 0 || now[i] >= last[i], "clock %d went back by %ld ns", i, last[i] - now[i]);
      if (last[i] != 0) longest[i] = std::max(longest[i], now[i] - last[i]);
      last[i] = now[i];
    }
    farthest = std::max<int64_t>(farthest, std::abs(now[1] - now[0]));
    if (!last_round) state::sleep_ms(1);
  }
  // No longer than the program stood still.
  const int64_t most = int64_t{1000000} * state::late_ms();
  for (int i = 0; i < 4; i++) {
    CHECK(longest[i] < most, "clock %d jumped by %ld ms", i, longest[i] / 1000000);
  }
  CHECK(farthest < most, "vDSO and system call are %ld ms apart", farthest / 1000000);
}
}  // namespace

int main() {
  const pid_t pid = state::child(watch);
  std::thread other(watch);
  state::ready();
  watch();
  other.join();
  state::reap(pid);
  CHECK(state::clock_ns(CLOCK_PROCESS_CPUTIME_ID) < int64_t{60} * 1000000000, "CPU time ran away");
  state::pass();
}
