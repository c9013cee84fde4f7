// Blocked for ever in epoll_wait(2) until a byte comes: no EINTR, no event out of nothing.
#include <sys/epoll.h>

#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  const int set = state::must(epoll_create1(0), "epoll_create1");
  epoll_event wanted{};
  wanted.events = EPOLLIN;
  wanted.data.fd = ends[0];
  state::must(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &wanted), "epoll_ctl");
  std::thread writer = state::after_go(
      SYS_epoll_wait, [&ends] { state::must(write(ends[1], "x", 1), "write to the pipe"); });
  epoll_event got{};
  const int count = epoll_wait(set, &got, 1, -1);
  CHECK(count == 1, "epoll_wait returned %d", count);
  CHECK(state::go(), "epoll_wait returned before anything was written");
  CHECK(got.data.fd == ends[0] && got.events == EPOLLIN, "wrong event %x", got.events);
  writer.join();
  state::pass();
}
