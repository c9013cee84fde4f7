// Children that had ended, unreaped, at the cut: exit codes and signals are still to be had, once.
#include <csignal>

#include "tests/states/state.h"

int main() {
  const pid_t coded = state::child([] { _exit(37); });
  const pid_t killed = state::child([] {
    while (true) pause();
  });
  kill(killed, SIGTERM);
  siginfo_t info{};
  state::must(waitid(P_PID, static_cast<id_t>(coded), &info, WEXITED | WNOWAIT), "waitid");
  state::must(waitid(P_PID, static_cast<id_t>(killed), &info, WEXITED | WNOWAIT), "waitid");
  const pid_t nested = state::child([] {
    const pid_t inner = state::child([] { _exit(5); });
    siginfo_t seen{};
    state::must(waitid(P_PID, static_cast<id_t>(inner), &seen, WEXITED | WNOWAIT), "waitid");
    state::put("nested", "");
    state::wait_for_go();
    state::reap(inner, 5);
  });
  while (access(state::path("nested").c_str(), F_OK) != 0) state::sleep_ms(2);
  state::hold();
  state::reap(coded, 37);
  int status = 0;
  CHECK(waitpid(killed, &status, 0) == killed, "the killed child is gone");
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "status %x",
        static_cast<unsigned>(status));
  CHECK(waitpid(coded, nullptr, 0) == -1 && errno == ECHILD, "a child could be reaped twice");
  state::reap(nested);
  state::pass();
}
