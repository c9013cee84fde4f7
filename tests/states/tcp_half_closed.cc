// A TCP connection whose client has shut down its sending side: the server reads to the end and
// still answers.
#include "tests/states/tcp.h"

int main() {
  const state::TcpPair pair = state::tcp_pair(AF_INET);
  static uint8_t data[50000];
  state::fill(data, sizeof data, 3);
  state::send_all(pair.client, data, sizeof data);
  state::must(shutdown(pair.client, SHUT_WR), "shutdown");
  state::sleep_ms(20);
  state::hold();
  state::receive_pattern(pair.server, sizeof data, 3);
  char byte = 0;
  CHECK(recv(pair.server, &byte, 1, 0) == 0, "the server sees no end-of-file");
  state::send_all(pair.server, data, sizeof data);
  state::receive_pattern(pair.client, sizeof data, 3);
  CHECK(send(pair.client, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE,
        "the client can send after its shutdown");
  close(pair.server);
  CHECK(recv(pair.client, &byte, 1, 0) == 0, "the client sees no end-of-file");
  state::pass();
}
