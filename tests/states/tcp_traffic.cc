// Two processes that send and receive over TCP without pause while the cut falls: every byte once,
// in order.
#include "tests/states/tcp.h"

namespace {
/// Echoes whole blocks until the peer shuts down.
void echo(int fd) {
  uint8_t block[3000];
  while (true) {
    const ssize_t got = state::must(recv(fd, block, sizeof block, MSG_WAITALL), "recv");
    if (got == 0) return;
    state::send_all(fd, block, static_cast<size_t>(got));
  }
}
}  // namespace

int main() {
  const state::TcpPair pair = state::tcp_pair(AF_INET);
  const pid_t pid = state::child([&pair] {
    close(pair.client);
    echo(pair.server);
  });
  close(pair.server);
  uint8_t block[3000];
  uint8_t back[3000];
  unsigned round = 0;
  for (; !state::go(); round++) {
    if (round == 50) state::ready();
    state::fill(block, sizeof block, round);
    state::send_all(pair.client, block, sizeof block);
    const ssize_t got = state::must(recv(pair.client, back, sizeof back, MSG_WAITALL), "recv");
    CHECK(got == ssize_t{sizeof back}, "round %u: %zd bytes came back", round, got);
    CHECK(memcmp(block, back, sizeof back) == 0, "round %u: other bytes came back", round);
  }
  state::must(shutdown(pair.client, SHUT_WR), "shutdown");
  state::reap(pid);
  state::pass();
}
