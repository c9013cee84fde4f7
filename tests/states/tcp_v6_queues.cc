// An established TCP connection over IPv6, both ways full: bytes unread, unacknowledged and unsent
// arrive once.
#include "tests/states/tcp.h"

int main() {
  const state::TcpPair pair = state::tcp_pair(AF_INET6);
  const int one = 1;
  state::must(setsockopt(pair.client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "TCP_NODELAY");
  state::must(setsockopt(pair.client, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one), "SO_KEEPALIVE");
  state::Address own;
  state::must(getsockname(pair.client, own.get(), &own.size), "getsockname");
  const size_t up = state::send_until_full(pair.client, 1);
  const size_t down = state::send_until_full(pair.server, 2);
  CHECK(up > 100000 && down > 100000, "only %zu and %zu bytes went out", up, down);
  const pid_t pid = state::child([&pair, up] {
    close(pair.client);
    state::wait_for_go();
    state::receive_pattern(pair.server, up, 1);
    state::send_all(pair.server, "bye", 3);
  });
  close(pair.server);
  state::hold();
  state::receive_pattern(pair.client, down, 2);
  char text[4] = {};
  CHECK(recv(pair.client, text, 3, MSG_WAITALL) == 3 && strcmp(text, "bye") == 0, "'%s'", text);
  state::reap(pid);
  CHECK(recv(pair.client, text, 1, 0) == 0, "no end-of-file after the peer closed");
  state::Address now;
  state::must(getsockname(pair.client, now.get(), &now.size), "getsockname");
  CHECK(memcmp(&own.storage, &now.storage, own.size) == 0, "the local address changed");
  int value = 0;
  socklen_t size = sizeof value;
  state::must(getsockopt(pair.client, IPPROTO_TCP, TCP_NODELAY, &value, &size), "getsockopt");
  CHECK(value != 0, "TCP_NODELAY was lost");
  state::must(getsockopt(pair.client, SOL_SOCKET, SO_KEEPALIVE, &value, &size), "getsockopt");
  CHECK(value != 0, "SO_KEEPALIVE was lost");
  state::pass();
}
