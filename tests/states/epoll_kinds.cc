// One epoll set over a pipe, an eventfd, a timerfd, a socket and another epoll set; level, edge and
// one-shot; data words kept.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include <map>

#include "tests/states/state.h"

namespace {
void add(int set, int fd, uint32_t events, uint64_t data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  state::must(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

std::map<uint64_t, uint32_t> look(int set) {
  epoll_event events[16];
  const int count = state::must(epoll_wait(set, events, 16, 0), "epoll_wait");
  std::map<uint64_t, uint32_t> seen;
  for (int i = 0; i < count; i++) seen[events[i].data.u64] = events[i].events;
  return seen;
}
}  // namespace

int main() {
  const int set = state::must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  const int inner = state::must(epoll_create1(0), "epoll_create1");
  int ends[2];
  int pair[2];
  state::must(pipe(ends), "pipe");
  state::must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
  const int counter = state::must(eventfd(1, EFD_NONBLOCK), "eventfd");
  const int other = state::must(eventfd(0, EFD_NONBLOCK), "eventfd");
  const int timer = state::must(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
  add(set, ends[0], EPOLLIN, 0xAAAAAAAA00000001);
  add(set, counter, EPOLLIN | EPOLLONESHOT, 2);
  add(set, timer, EPOLLIN, 3);
  add(set, pair[0], EPOLLIN | EPOLLOUT | EPOLLRDHUP, 4);
  add(set, inner, EPOLLIN, 5);
  add(inner, other, EPOLLIN | EPOLLET, 6);
  auto before = look(set);
  CHECK(before.size() == 2 && before[2] == EPOLLIN && before[4] == EPOLLOUT, "before: %zu events",
        before.size());
  // The one-shot has fired and is disarmed from here on.
  state::must(write(ends[1], "x", 1), "write");
  state::hold();
  auto now = look(set);
  CHECK(now.count(2) == 0, "a one-shot that had fired fired again");
  CHECK(now[0xAAAAAAAA00000001] == EPOLLIN, "the pipe's byte is not seen");
  CHECK(now[4] == EPOLLOUT, "the socket's events are %x", now[4]);
  CHECK(now.size() == 2, "%zu events, not 2", now.size());
  const uint64_t one = 1;
  state::must(write(other, &one, 8), "write");
  state::must(shutdown(pair[1], SHUT_WR), "shutdown");
  const itimerspec soon{{0, 0}, {0, 1000}};
  state::must(timerfd_settime(timer, 0, &soon, nullptr), "timerfd_settime");
  state::sleep_ms(5);
  now = look(set);
  CHECK(now.count(3) == 1 && now.count(5) == 1, "timer or inner set is not watched any more");
  CHECK((now[4] & EPOLLRDHUP) != 0, "the socket's events are %x", now[4]);
  now = look(inner);
  CHECK(now.count(6) == 1 && look(inner).empty(), "the edge-triggered entry is no longer one");
  epoll_event again{};
  again.events = EPOLLIN;
  state::must(epoll_ctl(set, EPOLL_CTL_MOD, counter, &again), "the one-shot's entry is gone");
  state::pass();
}
