// The timer slack of each thread.
#include <sys/prctl.h>

#include "tests/states/state.h"

int main() {
  std::thread other([] {
    state::must(prctl(PR_SET_TIMERSLACK, 123456), "PR_SET_TIMERSLACK");
    state::wait_for_go();
    CHECK(prctl(PR_GET_TIMERSLACK) == 123456, "the thread's timer slack is %d",
          prctl(PR_GET_TIMERSLACK));
  });
  state::must(prctl(PR_SET_TIMERSLACK, 777), "PR_SET_TIMERSLACK");
  state::sleep_ms(20);
  state::hold();
  CHECK(prctl(PR_GET_TIMERSLACK) == 777, "the timer slack is %d", prctl(PR_GET_TIMERSLACK));
  other.join();
  state::pass();
}
