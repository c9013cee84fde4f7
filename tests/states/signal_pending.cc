// Signals blocked and pending: for the process and for a thread, queued in order, with value,
// sender and code.
#include <csignal>

#include "tests/states/state.h"

namespace {
void send(int signal, int number) {
  sigval value{};
  value.sival_int = number;
  state::must(sigqueue(getpid(), signal, value), "sigqueue");
}

void expect(int signal, int code, int number) {
  sigset_t one;
  sigemptyset(&one);
  sigaddset(&one, signal);
  const timespec now{};
  siginfo_t info{};
  // Not by glibc's sigtimedwait(), which turns SI_TKILL into SI_USER.
  const auto got = static_cast<int>(syscall(SYS_rt_sigtimedwait, &one, &info, &now, size_t{8}));
  CHECK(got == signal, "signal %d is no longer pending (%d)", signal, got);
  CHECK(info.si_code == code, "signal %d: code %d, not %d", signal, info.si_code, code);
  CHECK(info.si_pid == getpid() && info.si_uid == getuid(), "signal %d: from process %d", signal,
        info.si_pid);
  CHECK(code != SI_QUEUE || info.si_value.sival_int == number, "signal %d: value %d, not %d",
        signal, info.si_value.sival_int, number);
}
}  // namespace

int main() {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);
  send(SIGRTMIN + 1, 100);
  send(SIGRTMIN + 1, 200);
  send(SIGRTMIN + 1, 300);
  send(SIGUSR1, 400);
  state::must(kill(getpid(), SIGTERM), "kill");
  std::thread other([] {
    state::must(static_cast<int>(syscall(SYS_tgkill, getpid(), state::gettid(), SIGUSR2)),
                "tgkill");
    sigset_t before;
    sigpending(&before);
    state::wait_for_go();
    expect(SIGUSR2, SI_TKILL, 0);
  });
  state::sleep_ms(30);
  state::hold();
  other.join();
  sigset_t pending;
  sigpending(&pending);
  CHECK(sigismember(&pending, SIGUSR2) == 0, "the thread's signal is pending for the process");
  expect(SIGRTMIN + 1, SI_QUEUE, 100);
  expect(SIGRTMIN + 1, SI_QUEUE, 200);
  expect(SIGRTMIN + 1, SI_QUEUE, 300);
  expect(SIGUSR1, SI_QUEUE, 400);
  expect(SIGTERM, SI_USER, 0);
  sigpending(&pending);
  for (int signal = 1; signal <= SIGRTMAX; signal++) {
    CHECK(sigismember(&pending, signal) != 1, "signal %d is pending that nobody sent", signal);
  }
  state::pass();
}
