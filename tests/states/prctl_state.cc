// What prctl(2) sets: names, parent-death signal, child subreaper, and the signal that comes when
// the parent ends.
#include <sys/prctl.h>

#include <csignal>

#include "tests/states/state.h"

int main() {
  state::must(prctl(PR_SET_NAME, "fermata-name"), "PR_SET_NAME");
  state::must(prctl(PR_SET_CHILD_SUBREAPER, 1), "PR_SET_CHILD_SUBREAPER");
  int ends[2];
  state::must(pipe(ends), "pipe");
  const pid_t parent = state::child([&ends] {
    const pid_t watcher = state::child([] {
      state::must(prctl(PR_SET_PDEATHSIG, SIGUSR1), "PR_SET_PDEATHSIG");
      sigset_t one;
      sigemptyset(&one);
      sigaddset(&one, SIGUSR1);
      sigprocmask(SIG_BLOCK, &one, nullptr);
      state::put("watching", "");
      siginfo_t info{};
      CHECK(sigwaitinfo(&one, &info) == SIGUSR1, "the parent-death signal did not come");
      CHECK(state::go(), "the parent-death signal came before the parent ended");
      _exit(66);
    });
    state::must(write(ends[1], &watcher, sizeof watcher), "write");
    state::wait_for_go();
  });
  pid_t watcher = 0;
  state::must(read(ends[0], &watcher, sizeof watcher), "read");
  while (access(state::path("watching").c_str(), F_OK) != 0) state::sleep_ms(2);
  state::sleep_ms(20);
  state::hold();
  char name[16] = {};
  prctl(PR_GET_NAME, name);
  CHECK(strcmp(name, "fermata-name") == 0, "the name is '%s'", name);
  int reaper = 0;
  prctl(PR_GET_CHILD_SUBREAPER, &reaper);
  CHECK(reaper == 1, "the subreaper flag was lost");
  state::reap(parent);
  state::reap(watcher, 66);  // ours now, because we are the subreaper
  state::pass();
}
