// Inside a signal handler, on the alternate stack, itself interrupted by a second one: both return
// after the cut to where they came from, with masks and registers as they were.
#include <csignal>

#include "tests/states/state.h"

namespace {
volatile sig_atomic_t steps = 0;
alignas(16) char stack_memory[128 * 1024];

void inner(int) {
  steps = steps * 10 + 2;
  state::hold();
  steps = steps * 10 + 3;
}

void outer(int) {
  steps = steps * 10 + 1;
  const int kept = errno;
  raise(SIGUSR2);
  errno = kept;
  steps = steps * 10 + 4;
}
}  // namespace

int main() {
  stack_t stack{};
  stack.ss_sp = stack_memory;
  stack.ss_size = sizeof stack_memory;
  state::must(sigaltstack(&stack, nullptr), "sigaltstack");
  struct sigaction action {};
  action.sa_handler = outer;
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGUSR1, &action, nullptr);
  action.sa_handler = inner;
  sigaction(SIGUSR2, &action, nullptr);
  volatile double live = 2.5;
  double sum = live * 4;
  raise(SIGUSR1);
  sum += live;
  CHECK(steps == 1234, "the handlers went through %d", static_cast<int>(steps));
  CHECK(sum == 12.5, "a register of the interrupted code became %f", sum);
  sigset_t now;
  sigprocmask(SIG_BLOCK, nullptr, &now);
  CHECK(sigismember(&now, SIGUSR1) == 0 && sigismember(&now, SIGUSR2) == 0,
        "a handler's signal stayed blocked");
  stack_t after{};
  sigaltstack(nullptr, &after);
  CHECK((after.ss_flags & SS_ONSTACK) == 0, "the kernel thinks we are still on the signal stack");
  state::pass();
}
