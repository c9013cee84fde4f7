// Waiting in epoll_wait(2), which says EINTR to a program that was merely stopped (signal(7)): it
// must not here.
#include <sys/epoll.h>

#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  const int set = state::must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  epoll_event wanted{};
  wanted.events = EPOLLIN;
  wanted.data.u64 = 0x1122334455667788;
  state::must(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &wanted), "epoll_ctl");
  state::timed_wait(SYS_epoll_wait, state::Rest::kNeverTells, [set] {
    epoll_event got{};
    const int count = epoll_wait(set, &got, 1, state::kTimeoutMs);
    CHECK(count == 0, "epoll_wait returned %d before its timeout", count);
  });
  state::must(write(ends[1], "x", 1), "write");
  epoll_event got{};
  CHECK(epoll_wait(set, &got, 1, 1000) == 1, "epoll_wait does not see the byte");
  CHECK(got.data.u64 == wanted.data.u64, "the event's data changed");
  state::pass();
}
