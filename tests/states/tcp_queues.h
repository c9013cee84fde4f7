// An established TCP connection, both ways full: bytes unread, unacknowledged and unsent arrive
// once.
#pragma once

#include "tests/states/tcp.h"

namespace state {

[[noreturn]] inline void hold_full_queues(int family) {
  const TcpPair pair = tcp_pair(family);
  const int one = 1;
  must(setsockopt(pair.client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "TCP_NODELAY");
  must(setsockopt(pair.client, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one), "SO_KEEPALIVE");
  Address own;
  must(getsockname(pair.client, own.get(), &own.size), "getsockname");
  const size_t up = send_until_full(pair.client, 1);
  const size_t down = send_until_full(pair.server, 2);
  CHECK(up > 100000 && down > 100000, "only %zu and %zu bytes went out", up, down);
  const pid_t pid = child([&pair, up] {
    close(pair.client);
    wait_for_go();
    receive_pattern(pair.server, up, 1);
    send_all(pair.server, "bye", 3);
  });
  close(pair.server);
  hold();
  receive_pattern(pair.client, down, 2);
  char text[4] = {};
  CHECK(recv(pair.client, text, 3, MSG_WAITALL) == 3 && strcmp(text, "bye") == 0, "'%s'", text);
  reap(pid);
  CHECK(recv(pair.client, text, 1, 0) == 0, "no end-of-file after the peer closed");
  Address now;
  must(getsockname(pair.client, now.get(), &now.size), "getsockname");
  CHECK(memcmp(&own.storage, &now.storage, own.size) == 0, "the local address changed");
  int value = 0;
  socklen_t size = sizeof value;
  must(getsockopt(pair.client, IPPROTO_TCP, TCP_NODELAY, &value, &size), "getsockopt");
  CHECK(value != 0, "TCP_NODELAY was lost");
  must(getsockopt(pair.client, SOL_SOCKET, SO_KEEPALIVE, &value, &size), "getsockopt");
  CHECK(value != 0, "SO_KEEPALIVE was lost");
  pass();
}

}  // namespace state
