// Blocked in wait4(2) for a child that ends only after go; its exit code arrives.
#include <sys/resource.h>

#include "tests/states/state.h"

int main() {
  const pid_t pid = state::child([] {
    state::wait_in_call(getppid(), getppid(), SYS_wait4);
    state::hold();
    _exit(42);
  });
  int status = 0;
  rusage usage{};
  const pid_t got = wait4(pid, &status, 0, &usage);
  CHECK(got == pid, "wait4 returned %d for child %d", got, pid);
  CHECK(state::go(), "wait4 returned before the child ended");
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42, "status %x", static_cast<unsigned>(status));
  state::pass();
}
