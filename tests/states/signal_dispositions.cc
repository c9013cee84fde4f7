// Every signal's disposition, flags and mask, and a different blocked mask for each of two threads.
#include <csignal>

#include "tests/states/state.h"

namespace {
volatile sig_atomic_t value = 0;
void simple(int) { value = value + 1; }
void with_info(int, siginfo_t* info, void*) { value = info->si_value.sival_int; }

struct sigaction wanted(int signal) {
  struct sigaction action {};
  sigemptyset(&action.sa_mask);
  if (signal % 3 == 0) {
    action.sa_handler = SIG_IGN;
  } else if (signal % 3 == 1) {
    action.sa_handler = simple;
    action.sa_flags = SA_RESTART | SA_NODEFER;
    sigaddset(&action.sa_mask, SIGUSR2);
  } else {
    action.sa_sigaction = with_info;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaddset(&action.sa_mask, SIGRTMAX);
  }
  return action;
}

bool settable(int signal) {
  return signal != SIGKILL && signal != SIGSTOP && signal != SIGCHLD && signal != SIGCONT &&
         (signal < 32 || signal >= SIGRTMIN);
}

void check_mask(int blocked, int open) {
  sigset_t now;
  pthread_sigmask(SIG_BLOCK, nullptr, &now);
  CHECK(sigismember(&now, blocked) == 1, "signal %d is no longer blocked", blocked);
  CHECK(sigismember(&now, open) == 0, "signal %d is blocked", open);
}

void block(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}
}  // namespace

int main() {
  for (int signal = 1; signal <= SIGRTMAX; signal++) {
    const struct sigaction action = wanted(signal);
    if (settable(signal)) state::must(sigaction(signal, &action, nullptr), "sigaction");
  }
  std::thread other([] {
    block(SIGWINCH);
    state::wait_for_go();
    check_mask(SIGWINCH, SIGRTMIN + 5);
  });
  state::sleep_ms(20);
  block(SIGRTMIN + 5);
  state::hold();
  check_mask(SIGRTMIN + 5, SIGWINCH);
  for (int signal = 1; signal <= SIGRTMAX; signal++) {
    if (!settable(signal)) continue;
    const struct sigaction expected = wanted(signal);
    struct sigaction now {};
    state::must(sigaction(signal, nullptr, &now), "sigaction");
    CHECK(now.sa_handler == expected.sa_handler, "signal %d has another handler", signal);
    CHECK((now.sa_flags & ~0x04000000) == expected.sa_flags, "signal %d: flags %x", signal,
          static_cast<unsigned>(now.sa_flags));
    for (int masked : {SIGUSR2, SIGRTMAX}) {
      CHECK(sigismember(&now.sa_mask, masked) == sigismember(&expected.sa_mask, masked),
            "signal %d: its mask differs in signal %d", signal, masked);
    }
  }
  other.join();
  sigval number{};
  number.sival_int = 77;
  const int real_time = SIGRTMIN + (2 - SIGRTMIN % 3 + 3) % 3 + 3;
  state::must(sigqueue(getpid(), real_time, number), "sigqueue");
  CHECK(value == 77, "the handler saw %d", static_cast<int>(value));
  state::pass();
}
