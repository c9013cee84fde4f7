// In pause(2): only the signal sent after go ends it.
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
  const pthread_t sleeper = pthread_self();
  std::thread sender = state::after_go(SYS_pause, [sleeper] { pthread_kill(sleeper, SIGUSR1); });
  const int result = pause();
  CHECK(result == -1 && errno == EINTR, "pause returned %d", result);
  CHECK(state::go(), "pause ended before the signal");
  CHECK(handled == 1, "the handler ran %d times", static_cast<int>(handled));
  sender.join();
  state::pass();
}
