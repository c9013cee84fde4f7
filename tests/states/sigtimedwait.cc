// Waiting in sigtimedwait(2), another call that says EINTR to a program that was merely stopped.
#include <csignal>

#include "tests/states/state.h"

int main() {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  sigprocmask(SIG_BLOCK, &wanted, nullptr);
  state::timed_wait(SYS_rt_sigtimedwait, state::Rest::kNeverTells, [&wanted] {
    const timespec time{state::kTimeoutMs / 1000, 0};
    errno = 0;
    const int signal = sigtimedwait(&wanted, nullptr, &time);
    CHECK(signal == -1 && errno == EAGAIN, "sigtimedwait returned %d, errno %d", signal, errno);
  });
  state::pass();
}
