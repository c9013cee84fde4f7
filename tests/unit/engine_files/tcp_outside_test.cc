// TCP connections between two pods, across a restart of both on other nodes.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node-agent/engine/tcp_states.h"
#include "two_pods.h"

namespace fermata::engine {
namespace {

int queued(const UniqueFd& fd, unsigned long which) {
  int bytes = -1;
  ::ioctl(fd.get(), which, &bytes);
  return bytes;
}

// Nothing arrives at this socket any more, as if it were lost on the way.
void deafen(const UniqueFd& fd) {
  sock_filter drop{BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program{1, &drop};
  ASSERT_EQ(::setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
}

class TcpForms : public ::testing::TestWithParam<Form> {};

// Unread, sent and not acknowledged, sent and lost, never sent: all of it arrives once.
TEST_P(TcpForms, Queues_AreKept_OnOtherNodesUnderOtherAddresses) {
  TwoPods pods({.form = GetParam()});
  {
    const UniqueFd client = pods.client_fd();
    const UniqueFd server = pods.server_fd();
    for (const UniqueFd* end : {&client, &server}) {
      const int big = 4 << 20;
      ::setsockopt(end->get(), SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
    }
    put(client, pattern(20'000, 1));
    EXPECT_EQ(take(server, 100), pattern(20'000, 1).substr(0, 100));
    EXPECT_TRUE(eventually([&] { return queued(server, SIOCINQ) == 19'900; }));
    EXPECT_TRUE(eventually([&] { return queued(client, SIOCOUTQ) == 0; }));
    // What the client sends from here arrives, and it does not hear of that.
    deafen(client);
    put(client, pattern(5'000, 2));
    EXPECT_TRUE(eventually([&] { return queued(server, SIOCINQ) == 24'900; }));
    // What both send from here is lost.
    deafen(server);
    put(server, pattern(7'000, 3));
    put(client, pattern(9'000, 4));
    EXPECT_TRUE(eventually([&] { return queued(server, SIOCOUTQNSD) == 0; }));
    pods.cut();
    // And this does not even leave.
    put(server, pattern(1 << 20, 5));
    put(client, pattern(1 << 20, 6));
    EXPECT_GT(queued(client, SIOCOUTQNSD), 1 << 19);
  }
  ASSERT_OK(pods.take_set());
  ASSERT_EQ(pods.client().outside().connections.size(), 1U);
  ASSERT_EQ(pods.server().outside().connections.size(), 1U);
  const image::OutsideConnection& one = pods.client().outside().connections[0];
  const image::OutsideConnection& other = pods.server().outside().connections[0];
  EXPECT_EQ(one.local(), other.remote());
  EXPECT_EQ(one.remote(), other.local());
  EXPECT_EQ(one.state(), "established");
  EXPECT_NE(one.holder().find("fd 3"), std::string::npos) << one.holder();
  pods.move();
  ASSERT_OK(pods.restart());
  const UniqueFd client = pods.client_fd();
  const UniqueFd server = pods.server_fd();
  EXPECT_TRUE(same(take(server, 24'900 + 9'000 + (1 << 20)),
                   pattern(20'000, 1).substr(100) + pattern(5'000, 2) + pattern(9'000, 4) +
                       pattern(1 << 20, 6)));
  EXPECT_TRUE(same(take(client, 7'000 + (1 << 20)), pattern(7'000, 3) + pattern(1 << 20, 5)));
  put(client, "again");
  put(server, "and back");
  EXPECT_EQ(take(server, 5), "again");
  EXPECT_EQ(take(client, 8), "and back");
  EXPECT_EQ(int_option(client, IPPROTO_TCP, TCP_REPAIR), 0);
}

INSTANTIATE_TEST_SUITE_P(All, TcpForms, ::testing::Values(Form::kIpv4, Form::kIpv6, Form::kMapped));

}  // namespace
}  // namespace fermata::engine
