// Blocked in accept(2); the connection comes after the cut.
#include "tests/states/tcp.h"

int main() {
  state::Address address;
  const int listener = state::listen_on_loopback(AF_INET, address);
  int client = -1;
  std::thread connector =
      state::after_go(SYS_accept, [&client, &address] { client = state::connect_to(address); });
  const int server =
      state::must(static_cast<int>(syscall(SYS_accept, listener, nullptr, nullptr)), "accept");
  CHECK(state::go(), "a connection came that nobody made");
  connector.join();
  state::send_all(server, "ok", 2);
  char text[3] = {};
  CHECK(recv(client, text, 2, MSG_WAITALL) == 2 && strcmp(text, "ok") == 0, "received '%s'", text);
  state::pass();
}
