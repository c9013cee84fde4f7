// In recv(2) on a socket with SO_RCVTIMEO, which says EINTR to a program that was merely stopped.
#include <sys/socket.h>
#include <sys/time.h>

#include "tests/states/state.h"

int main() {
  int pair[2];
  state::must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
  const timeval time{state::kTimeoutMs / 1000, 0};
  state::must(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time), "SO_RCVTIMEO");
  state::timed_wait(SYS_recvfrom, state::Rest::kNeverTells, [&pair] {
    char byte = 0;
    const ssize_t got = recv(pair[0], &byte, 1, 0);
    CHECK(got == -1 && errno == EAGAIN, "recv returned %zd, errno %d", got, errno);
  });
  timeval kept{};
  socklen_t size = sizeof kept;
  state::must(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &kept, &size), "getsockopt");
  CHECK(kept.tv_sec == time.tv_sec && kept.tv_usec == 0, "SO_RCVTIMEO is %ld.%06ld", kept.tv_sec,
        kept.tv_usec);
  state::pass();
}
