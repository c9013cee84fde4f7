// Reading live connections in repair mode: the death of who reads leaves none of them in it.
#include "node-agent/engine/tcp_live.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <vector>

#include "two_pods.h"

namespace fermata::engine {
namespace {

struct Connection {
  UniqueFd one;
  UniqueFd other;
};

Connection connect_here() {
  const in_addr here{htonl(INADDR_LOOPBACK)};
  const InetAddress any(&here, AF_INET, 0);
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM, 0));
  Connection made{UniqueFd(::socket(AF_INET, SOCK_STREAM, 0)), UniqueFd()};
  if (::bind(listener.get(), any.get(), any.length()) != 0 || ::listen(listener.get(), 1) != 0) {
    std::abort();
  }
  const InetAddress at = local_of(listener);
  if (::connect(made.one.get(), at.get(), at.length()) != 0) std::abort();
  made.other.reset(::accept(listener.get(), nullptr, nullptr));
  return made;
}

TEST(TcpLive, ReaderKilledAtAnyMoment_LeavesNoSocketInRepairMode) {
  constexpr int kConnections = 20;
  constexpr int kKills = 60;
  std::vector<Connection> connections;
  for (int i = 0; i < kConnections; ++i) connections.push_back(connect_here());
  for (int kill = 0; kill < kKills; ++kill) {
    // Held by the reader and by the process that it reads in, which ends its work by itself.
    std::array<int, 2> alive{};
    ASSERT_EQ(::pipe2(alive.data(), O_CLOEXEC), 0);
    const UniqueFd until_gone(alive[0]);
    const pid_t reader = ::fork();
    if (reader != 0) ::close(alive[1]);
    if (reader == 0) {
      for (;;) {
        std::vector<WireEnd> ends;
        for (const Connection& connection : connections) {
          ends.emplace_back().fd = connection.one.get();
        }
        const Status read = read_wire_ends(ends);
        // Busy: what the reader before left behind is just ending.
        if (!read && read.code() != Code::kBusy) ::_exit(1);
      }
    }
    ::usleep(static_cast<useconds_t>(1000 + kill * 137));
    ASSERT_EQ(::kill(reader, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(reader, &status, 0), reader);
    ASSERT_TRUE(WIFSIGNALED(status)) << "reading failed";
    char nothing = 0;
    ASSERT_EQ(::read(until_gone.get(), &nothing, 1), 0);
    for (const Connection& connection : connections) {
      ASSERT_EQ(int_option(connection.one, IPPROTO_TCP, TCP_REPAIR), 0);
    }
  }
  for (const Connection& connection : connections) {
    put(connection.one, "still here");
    EXPECT_EQ(take(connection.other, 10), "still here");
  }
}

}  // namespace
}  // namespace fermata::engine
