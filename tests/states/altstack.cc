// An alternate signal stack for each of two threads; handlers run on it after the cut.
#include <csignal>
#include <vector>

#include "tests/states/state.h"

namespace {
thread_local uintptr_t handler_stack = 0;
void handler(int) {
  int here = 0;
  handler_stack = reinterpret_cast<uintptr_t>(&here);
}

void live(bool says_ready) {
  std::vector<char> memory(64 * 1024);
  stack_t stack{};
  stack.ss_sp = memory.data();
  stack.ss_size = memory.size();
  state::must(sigaltstack(&stack, nullptr), "sigaltstack");
  if (says_ready) {
    state::hold();
  } else {
    state::wait_for_go();
  }
  stack_t now{};
  state::must(sigaltstack(nullptr, &now), "sigaltstack");
  CHECK(now.ss_sp == stack.ss_sp && now.ss_size == stack.ss_size && now.ss_flags == 0,
        "the alternate stack is %p, %zu bytes, flags %d", now.ss_sp, now.ss_size, now.ss_flags);
  pthread_kill(pthread_self(), SIGUSR1);
  const auto base = reinterpret_cast<uintptr_t>(memory.data());
  CHECK(handler_stack >= base && handler_stack < base + memory.size(),
        "the handler did not run on the alternate stack");
  stack.ss_flags = SS_DISABLE;
  sigaltstack(&stack, nullptr);
}
}  // namespace

int main() {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGUSR1, &action, nullptr);
  std::thread other(live, false);
  state::sleep_ms(20);
  live(true);
  other.join();
  state::pass();
}
