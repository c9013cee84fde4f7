#include "node-agent/pod/podinit/held_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <fstream>
#include <set>
#include <sstream>

#include "pod_fixture.h"

namespace fermata::pod {
namespace {

uint32_t lowest_of_the_kernel() {
  uint32_t low = 0;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> low;
  return low;
}

/// Errno; 0: it listens there.
int listen_at(uint16_t port, bool reuse) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = reuse ? 1 : 0;
  EXPECT_EQ(::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return errno;
  return ::listen(fd.get(), 1) == 0 ? 0 : errno;
}

TEST(HeldPort, IsOneThatTheKernelGivesNobody_AndOnlyOurs) {
  std::vector<HeldPort> held;
  std::set<uint16_t> numbers;
  for (int i = 0; i < 50; ++i) {
    Result<HeldPort> port = HeldPort::choose();
    ASSERT_TRUE(port) << port.error().message();
    EXPECT_GE(port->number(), 1024);
    EXPECT_LT(port->number(), lowest_of_the_kernel());
    numbers.insert(port->number());
    held.push_back(*std::move(port));
  }
  EXPECT_EQ(numbers.size(), held.size());
  EXPECT_EQ(listen_at(held.front().number(), /*reuse=*/false), EADDRINUSE);
  EXPECT_EQ(listen_at(held.front().number(), /*reuse=*/true), 0);
}

class ServerPortTest : public PodFixture {};

TEST_F(ServerPortTest, APodsServerListens_WhereTheKernelPutsNobody) {
  const Finished finished = run(script("env | sed -n 's/^PMIX_SERVER_URI.*://p' | sort -u"));
  ASSERT_EQ(finished.status, 0) << finished.err;
  std::istringstream text(finished.out);
  uint32_t port = 0;
  ASSERT_TRUE(text >> port) << finished.out;
  EXPECT_GE(port, 1024U);
  EXPECT_LT(port, lowest_of_the_kernel());
  EXPECT_FALSE(text >> port) << "one server: " << finished.out;
}

}  // namespace
}  // namespace fermata::pod
