// Named UNIX sockets: a listener by path, one in the abstract namespace, a bound datagram socket,
// and a live connection; they take connections after the cut.
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/states/state.h"

namespace {
struct Name {
  sockaddr_un address{};
  socklen_t size = 0;
  explicit Name(const std::string& name, bool abstract = false) {
    address.sun_family = AF_UNIX;
    const size_t skip = abstract ? 1 : 0;
    memcpy(address.sun_path + skip, name.data(), name.size());
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size() + 1);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

int bound(int type, const Name& name) {
  const int fd = state::must(socket(AF_UNIX, type, 0), "socket");
  state::must(bind(fd, name.get(), name.size), "bind");
  if (type == SOCK_STREAM) state::must(listen(fd, 5), "listen");
  return fd;
}

int connected(int type, const Name& name) {
  const int fd = state::must(socket(AF_UNIX, type, 0), "socket");
  state::must(connect(fd, name.get(), name.size), "connect");
  return fd;
}

void talk(int from, int to) {
  state::must(write(from, "word", 4), "write");
  char text[8] = {};
  CHECK(read(to, text, sizeof text) == 4 && strcmp(text, "word") == 0, "read '%s'", text);
}
}  // namespace

int main() {
  // Relative, because sun_path is short.
  state::must(chdir(state::path("").c_str()), "chdir");
  const Name by_path("listener");
  const Name abstract("fermata-state-" + std::to_string(getpid()) + "-" +
                          std::to_string(state::clock_ns(CLOCK_REALTIME)),
                      true);
  const Name dgram("dgram");
  const int listener = bound(SOCK_STREAM, by_path);
  const int hidden = bound(SOCK_STREAM, abstract);
  const int receiver = bound(SOCK_DGRAM, dgram);
  const int client = connected(SOCK_STREAM, by_path);
  const int server = state::must(accept(listener, nullptr, nullptr), "accept");
  const int sender = connected(SOCK_DGRAM, dgram);
  state::must(write(sender, "kept", 4), "write");
  state::hold();
  char text[8] = {};
  CHECK(read(receiver, text, sizeof text) == 4 && strcmp(text, "kept") == 0, "read '%s'", text);
  talk(client, server);
  talk(server, client);
  talk(sender, receiver);
  talk(connected(SOCK_DGRAM, dgram), receiver);
  for (auto [fd, name] : {std::pair{listener, &by_path}, std::pair{hidden, &abstract}}) {
    const int late = connected(SOCK_STREAM, *name);
    talk(late, state::must(accept(fd, nullptr, nullptr), "accept after the cut"));
  }
  sockaddr_un own{};
  socklen_t size = sizeof own;
  state::must(getpeername(client, reinterpret_cast<sockaddr*>(&own), &size), "getpeername");
  CHECK(strcmp(own.sun_path, "listener") == 0, "the peer is called '%s'", own.sun_path);
  state::pass();
}
