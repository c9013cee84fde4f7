// Waiting in select(2) with a timeout.
#include <sys/select.h>

#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  // glibc's select() is pselect6 on x86_64; the old call is the one that is under test here.
  state::timed_wait(SYS_select, state::Rest::kAlwaysTold, [&ends] {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    timeval time{state::kTimeoutMs / 1000, 0};
    CHECK(syscall(SYS_select, ends[0] + 1, &set, nullptr, nullptr, &time) == 0,
          "select returned before its timeout");
    CHECK(time.tv_sec == 0 && time.tv_usec == 0, "select left %ld.%06ld s", time.tv_sec,
          time.tv_usec);
  });
  state::pass();
}
