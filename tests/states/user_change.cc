// A child that runs as another user than the job: restored state may not say who somebody is, so it
// is refused by name.
#include <grp.h>

#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  const pid_t pid = state::child([&ends] {
    state::must(setgroups(0, nullptr), "setgroups");
    state::must(setresgid(65534, 65534, 65534), "setresgid");
    state::must(setresuid(65534, 65534, 65534), "setresuid");
    state::must(write(ends[1], "r", 1), "write");
    state::wait_for_go();
    CHECK(geteuid() == 65534 && getegid() == 65534, "the child is user %u now", geteuid());
  });
  char byte = 0;
  state::must(read(ends[0], &byte, 1), "read");
  state::hold();
  state::reap(pid);
  state::pass();
}
