// Processes and threads made and ended without pause in four processes: whatever is half made at
// the cut, all of it arrives.
#include "tests/states/state.h"

namespace {
void storm(int seed) {
  for (int round = 0; !state::go(); round++) {
    const int code = (seed * 31 + round) % 120;
    const pid_t pid = state::must(fork(), "fork");
    if (pid == 0) {
      int counted = 0;
      std::thread first([&counted] { __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST); });
      std::thread second([&counted] { __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST); });
      first.join();
      second.join();
      _exit(counted == 2 ? code : 121);
    }
    state::reap(pid, code);
  }
}
}  // namespace

int main() {
  pid_t workers[4];
  for (int i = 0; i < 4; i++) {
    workers[i] = state::child([i] { storm(i); });
  }
  state::sleep_ms(50);
  state::hold();
  for (const pid_t pid : workers) state::reap(pid);
  state::pass();
}
