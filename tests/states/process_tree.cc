// Thirteen processes in three levels: every PID, parent and exit code as it was.
#include "tests/states/state.h"

namespace {
void check_self(pid_t pid, pid_t parent) {
  CHECK(getpid() == pid && syscall(SYS_getpid) == pid, "process %d is now %d", pid, getpid());
  CHECK(getppid() == parent, "process %d: the parent is now %d, was %d", pid, getppid(), parent);
}

pid_t grow(int level, int code) {
  const pid_t parent = getpid();
  const pid_t pid = state::must(fork(), "fork");
  if (pid != 0) return pid;
  const pid_t self = getpid();
  pid_t children[3] = {};
  if (level < 2) {
    for (int i = 0; i < 3; i++) children[i] = grow(level + 1, code * 4 + i + 1);
  }
  state::put("up." + std::to_string(code), "");
  state::wait_for_go();
  check_self(self, parent);
  if (level < 2) {
    for (int i = 0; i < 3; i++) state::reap(children[i], code * 4 + i + 1);
  }
  _exit(code);
}
}  // namespace

int main() {
  const pid_t self = getpid();
  const pid_t parent = getppid();
  pid_t children[3];
  for (int i = 0; i < 3; i++) children[i] = grow(1, i + 1);
  for (int i = 1; i <= 3; i++) {
    for (int code : {i, i * 4 + 1, i * 4 + 2, i * 4 + 3}) {
      while (access(state::path("up." + std::to_string(code)).c_str(), F_OK) != 0)
        state::sleep_ms(1);
    }
  }
  state::hold();
  check_self(self, parent);
  for (int i = 0; i < 3; i++) state::reap(children[i], i + 1);
  CHECK(waitpid(-1, nullptr, 0) == -1 && errno == ECHILD, "there is a child too many");
  state::pass();
}
