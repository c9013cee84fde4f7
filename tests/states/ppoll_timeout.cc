// Waiting in ppoll(2) with a timeout and a signal mask of its own; the old mask comes back after
// it.
#include <poll.h>

#include <csignal>

#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  state::timed_wait(SYS_ppoll, state::Rest::kAlwaysTold, [&ends] {
    sigset_t during;
    sigemptyset(&during);
    sigaddset(&during, SIGUSR2);
    const timespec time{state::kTimeoutMs / 1000, 0};
    pollfd entry{ends[0], POLLIN, 0};
    CHECK(ppoll(&entry, 1, &time, &during) == 0, "ppoll returned before its timeout");
  });
  sigset_t after;
  sigprocmask(SIG_BLOCK, nullptr, &after);
  CHECK(sigismember(&after, SIGUSR1) == 1, "SIGUSR1 is no longer blocked after ppoll");
  CHECK(sigismember(&after, SIGUSR2) == 0, "ppoll's own mask stayed");
  state::pass();
}
