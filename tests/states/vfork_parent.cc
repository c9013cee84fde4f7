// A parent held in vfork(2) by a child that neither executes nor exits until go.
#include "tests/states/state.h"

namespace {
// The child of vfork borrows our memory: it only waits and leaves, by system calls.
volatile int child_ran = 0;
}  // namespace

int main() {
  std::thread teller([] {
    while (child_ran == 0) state::sleep_ms(2);
    state::sleep_ms(20);
    state::ready();
  });
  const std::string go = state::path("go");
  const pid_t pid = vfork();
  if (pid == 0) {
    child_ran = 1;
    const timespec rest{0, 2000000};
    while (access(go.c_str(), F_OK) != 0) nanosleep(&rest, nullptr);
    _exit(23);
  }
  CHECK(pid > 0, "vfork");
  CHECK(state::go(), "vfork returned before the child ended");
  state::reap(pid, 23);
  teller.join();
  state::pass();
}
