// An empty datagram waiting in a UNIX socket: held, or refused by name.
#include <sys/socket.h>

#include "tests/states/state.h"

int main() {
  int pair[2];
  state::must(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), "socketpair");
  state::must(send(pair[0], "", 0, 0), "send");
  state::must(send(pair[0], "next", 4, 0), "send");
  state::hold();
  char text[8] = {};
  CHECK(recv(pair[1], text, sizeof text, MSG_DONTWAIT) == 0, "the empty datagram is gone");
  CHECK(recv(pair[1], text, sizeof text, MSG_DONTWAIT) == 4 && strcmp(text, "next") == 0,
        "the datagram after it is '%s'", text);
  state::pass();
}
