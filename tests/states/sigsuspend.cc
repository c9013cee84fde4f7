// In sigsuspend(2) with a mask of its own: the old mask is back once the signal has come.
#include <csignal>

#include "tests/states/state.h"

namespace {
volatile sig_atomic_t handled = 0;
void handler(int) { handled = handled + 1; }
}  // namespace

int main() {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(SIGUSR1, &action, nullptr);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  const pthread_t sleeper = pthread_self();
  std::thread sender =
      state::after_go(SYS_rt_sigsuspend, [sleeper] { pthread_kill(sleeper, SIGUSR1); });
  sigset_t during;
  sigemptyset(&during);
  CHECK(sigsuspend(&during) == -1 && errno == EINTR, "sigsuspend did not end by EINTR");
  CHECK(state::go() && handled == 1, "sigsuspend ended without the signal");
  sigset_t after;
  sigprocmask(SIG_BLOCK, nullptr, &after);
  CHECK(sigismember(&after, SIGUSR1) == 1, "the mask from before sigsuspend did not come back");
  sender.join();
  state::pass();
}
