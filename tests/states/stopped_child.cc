// A child stopped by SIGSTOP: still stopped after the cut, reported once, and it goes on at
// SIGCONT.
#include <csignal>

#include "tests/states/state.h"

namespace {
char state_of(pid_t pid) {
  FILE* file = fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "re");
  CHECK(file != nullptr, "process %d is gone", pid);
  char letter = '?';
  CHECK(fscanf(file, "%*d %*s %c", &letter) == 1, "/proc/%d/stat", pid);
  fclose(file);
  return letter;
}
}  // namespace

int main() {
  const pid_t pid = state::child([] {
    while (!state::go() || access(state::path("continue").c_str(), F_OK) != 0) state::sleep_ms(2);
    _exit(9);
  });
  const pid_t unseen = state::child([] {
    while (true) pause();
  });
  kill(pid, SIGSTOP);
  int status = 0;
  state::must(waitpid(pid, &status, WUNTRACED), "waitpid");
  CHECK(WIFSTOPPED(status), "the child did not stop");
  kill(unseen, SIGSTOP);
  while (state_of(unseen) != 'T') state::sleep_ms(1);
  state::hold();
  state::sleep_ms(50);
  CHECK(state_of(pid) == 'T', "the stopped child is in state %c", state_of(pid));
  CHECK(state_of(unseen) == 'T', "the second stopped child is in state %c", state_of(unseen));
  CHECK(waitpid(pid, &status, WUNTRACED | WNOHANG) == 0, "a stop was reported a second time");
  state::put("continue", "");
  kill(pid, SIGCONT);
  CHECK(waitpid(pid, &status, WCONTINUED) == pid, "waitpid");
  if (WIFCONTINUED(status)) waitpid(pid, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9, "status %x", static_cast<unsigned>(status));
  kill(unseen, SIGKILL);
  waitpid(unseen, &status, 0);
  state::pass();
}
