// A process whose parent has ended: it belongs to PID 1 of the pod and stays there.
#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  const pid_t parent = state::child([&ends] {
    const pid_t old_parent = getpid();
    state::child([&ends, old_parent] {
      while (getppid() == old_parent) state::sleep_ms(1);
      const pid_t adopted_by = getppid();
      state::must(write(ends[1], "a", 1), "write");
      state::wait_for_go();
      CHECK(getppid() == adopted_by, "the orphan's parent is %d, was %d", getppid(), adopted_by);
      state::must(write(ends[1], "b", 1), "write");
    });
  });
  state::reap(parent);
  char byte = 0;
  CHECK(read(ends[0], &byte, 1) == 1 && byte == 'a', "the orphan did not start");
  state::hold();
  close(ends[1]);
  CHECK(read(ends[0], &byte, 1) == 1 && byte == 'b', "the orphan did not end well");
  CHECK(waitpid(-1, nullptr, 0) == -1 && errno == ECHILD, "the orphan came back as a child");
  state::pass();
}
