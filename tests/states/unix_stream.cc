// A UNIX stream pair between two processes, bytes waiting in both directions, one side shut down
// for writing.
#include <sys/socket.h>

#include <csignal>

#include "tests/states/state.h"

int main() {
  signal(SIGPIPE, SIG_IGN);
  int pair[2];
  state::must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
  constexpr size_t kSize = 60000;
  static uint8_t data[kSize];
  state::fill(data, kSize, 15);
  state::must(write(pair[0], data, kSize), "write");
  state::must(write(pair[1], "answer", 6), "write");
  state::must(shutdown(pair[1], SHUT_WR), "shutdown");
  const pid_t pid = state::child([&pair] {
    close(pair[0]);
    state::wait_for_go();
    static uint8_t now[kSize];
    CHECK(recv(pair[1], now, kSize, MSG_WAITALL) == ssize_t{kSize}, "bytes are missing");
    state::check_filled(now, kSize, 15, "the bytes in the socket");
    CHECK(recv(pair[1], now, 4, MSG_WAITALL) == 4 && memcmp(now, "more", 4) == 0,
          "bytes sent after the cut do not arrive");
    CHECK(write(pair[1], "x", 1) == -1 && errno == EPIPE, "the shut-down side can write");
  });
  close(pair[1]);
  state::hold();
  state::must(write(pair[0], "more", 4), "write");
  char text[8] = {};
  CHECK(read(pair[0], text, sizeof text) == 6 && strcmp(text, "answer") == 0, "read '%s'", text);
  CHECK(read(pair[0], text, sizeof text) == 0, "no end-of-file after the peer's shutdown");
  state::reap(pid);
  state::pass();
}
