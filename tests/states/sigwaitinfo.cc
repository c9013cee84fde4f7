// Blocked in sigwaitinfo(2) until a signal with a value comes.
#include <csignal>

#include "tests/states/state.h"

int main() {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGRTMIN + 3);
  sigprocmask(SIG_BLOCK, &wanted, nullptr);
  std::thread sender = state::after_go(SYS_rt_sigtimedwait, [] {
    sigval value{};
    value.sival_int = 4711;
    state::must(sigqueue(getpid(), SIGRTMIN + 3, value), "sigqueue");
  });
  siginfo_t info{};
  const int signal = sigwaitinfo(&wanted, &info);
  CHECK(signal == SIGRTMIN + 3, "sigwaitinfo returned %d", signal);
  CHECK(info.si_value.sival_int == 4711, "the signal's value is %d", info.si_value.sival_int);
  sender.join();
  state::pass();
}
