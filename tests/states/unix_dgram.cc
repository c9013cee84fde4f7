// UNIX datagram and seqpacket pairs: what waits in them keeps its boundaries, empty messages
// included.
#include <sys/socket.h>

#include "tests/states/state.h"

namespace {
constexpr size_t kSizes[] = {1, 2000, 17, 4096, 300};

void send_all(int fd) {
  uint8_t message[4096];
  for (const size_t size : kSizes) {
    state::fill(message, size, static_cast<unsigned>(size));
    state::must(send(fd, message, size, 0), "send");
  }
}

void receive_all(int fd, const char* what) {
  uint8_t message[8192];
  for (const size_t size : kSizes) {
    const ssize_t got = state::must(recv(fd, message, sizeof message, MSG_DONTWAIT), "recv");
    CHECK(got == static_cast<ssize_t>(size), "%s: a message of %zu came as %zd", what, size, got);
    state::check_filled(message, size, static_cast<unsigned>(size), what);
  }
}
}  // namespace

int main() {
  int dgram[2];
  int packet[2];
  state::must(socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram), "socketpair");
  state::must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packet), "socketpair");
  send_all(dgram[0]);
  send_all(packet[0]);
  send_all(packet[1]);
  state::hold();
  receive_all(dgram[1], "datagram");
  char byte = 0;
  CHECK(recv(dgram[1], &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "a datagram too many");
  receive_all(packet[1], "packet");
  receive_all(packet[0], "packet back");
  send_all(dgram[1]);
  receive_all(dgram[0], "datagram after the cut");
  state::pass();
}
