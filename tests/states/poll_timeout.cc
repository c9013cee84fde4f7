// Waiting in poll(2) with a timeout, on a pipe to which nothing comes.
#include <poll.h>

#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  state::timed_wait(SYS_poll, state::Rest::kTellsWhenHeld, [&ends] {
    pollfd entry{ends[0], POLLIN, 0};
    CHECK(poll(&entry, 1, state::kTimeoutMs) == 0, "poll returned before its timeout");
  });
  state::pass();
}
