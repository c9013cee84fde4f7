// Listening TCP sockets, v4 and v6 on one port number each: they accept after the cut what connects
// after it.
#include "tests/states/tcp.h"

int main() {
  state::Address v4;
  state::Address v6;
  const int four = state::listen_on_loopback(AF_INET, v4);
  const int six = state::listen_on_loopback(AF_INET6, v6);
  const int reserve = 1;
  state::must(setsockopt(four, SOL_SOCKET, SO_REUSEADDR, &reserve, sizeof reserve), "SO_REUSEADDR");
  state::hold();
  int value = 0;
  socklen_t size = sizeof value;
  state::must(getsockopt(four, SOL_SOCKET, SO_ACCEPTCONN, &value, &size), "getsockopt");
  CHECK(value == 1, "the socket does not listen any more");
  for (auto [listener, address] : {std::pair{four, &v4}, std::pair{six, &v6}}) {
    const int client = state::connect_to(*address);
    const int server = state::must(accept4(listener, nullptr, nullptr, 0), "accept");
    state::send_all(client, "hello", 5);
    char text[6] = {};
    CHECK(recv(server, text, 5, MSG_WAITALL) == 5 && strcmp(text, "hello") == 0, "'%s'", text);
    close(client);
    close(server);
  }
  state::pass();
}
