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

#include <cstdlib>
#include <vector>

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

// Both pods on one new node, where somebody has the listener's port and the client's: other ports
// stand for them, and the ends find each other.
TEST(TcpOutside, TakenPorts_AreReplaced_AndPodsMayShareANode) {
  TwoPods pods({.connections = 2});
  put(pods.client_fd(0), "hello");
  put(pods.client_fd(1), "there");
  EXPECT_TRUE(eventually([&] { return queued(pods.server_fd(1), SIOCINQ) == 5; }));
  const uint16_t listened = local_of(pods.server().fd(1, 3)).port();
  const uint16_t connected = local_of(pods.client_fd(0)).port();
  const uint16_t kept = local_of(pods.client_fd(1)).port();
  ASSERT_OK(pods.take_set());
  pods.move_together();
  std::vector<UniqueFd> thieves;
  pods.server_node().enter();
  for (const uint16_t port : {listened, connected}) {
    const in_addr any{};
    const InetAddress address(&any, AF_INET, port);
    UniqueFd& thief = thieves.emplace_back(::socket(AF_INET, SOCK_STREAM, 0));
    ASSERT_EQ(::bind(thief.get(), address.get(), address.length()), 0);
    ASSERT_EQ(::listen(thief.get(), 1), 0);
  }
  NodeDouble::leave();
  ASSERT_OK(pods.restart());
  EXPECT_NE(local_of(pods.server().fd(1, 3)).port(), listened);
  EXPECT_EQ(local_of(pods.server().fd(1, 3)).port(), local_of(pods.server_fd(0)).port());
  EXPECT_NE(local_of(pods.client_fd(0)).port(), connected);
  EXPECT_EQ(local_of(pods.client_fd(1)).port(), kept);
  EXPECT_EQ(take(pods.server_fd(0), 5), "hello");
  EXPECT_EQ(take(pods.server_fd(1), 5), "there");
  put(pods.server_fd(0), "back");
  EXPECT_EQ(take(pods.client_fd(0), 4), "back");
  // Pods of one node are pods of their own still.
  put(pods.server_fd(1), "again");
  ASSERT_OK(pods.take_set());
  EXPECT_EQ(pods.client().outside().connections.size(), 2U);
  EXPECT_EQ(pods.server().outside().connections.size(), 2U);
  pods.move();
  ASSERT_OK(pods.restart(/*isolated=*/false));
  EXPECT_EQ(take(pods.client_fd(1), 5), "again");
}

// A capture leaves a live connection as it was, and what the cut held up flows at once.
TEST(TcpOutside, Connection_RunsOn_AfterACapture) {
  TwoPods pods({});
  const UniqueFd client = pods.client_fd();
  const UniqueFd server = pods.server_fd();
  for (int i = 0; i < 5; ++i) {
    pods.cut();
    put(client, pattern(50'000, 1));
    put(server, pattern(50'000, 2));
    ASSERT_OK(pods.take_set());
    EXPECT_EQ(int_option(client, IPPROTO_TCP, TCP_REPAIR), 0);
    pods.run_on();
    EXPECT_TRUE(same(take(server, 50'000), pattern(50'000, 1)));
    EXPECT_TRUE(same(take(client, 50'000), pattern(50'000, 2)));
  }
}

TEST(TcpOutside, NotAllowed_IsRefusedByName) {
  TwoPods pods({});
  pods.client_node().enter();
  const Status status = pods.client().capture();
  NodeDouble::leave();
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_NE(status.message().find("outside the job"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find(":7000"), std::string::npos) << status.message();
}

// One end is of no pod of the step.
TEST(TcpOutside, ConnectionThatLeavesTheJob_IsResetOrRefused) {
  for (const bool reset : {true, false}) {
    TwoPods pods({});
    put(pods.server_fd(), "licence");
    EXPECT_TRUE(eventually([&] { return queued(pods.client_fd(), SIOCINQ) == 7; }));
    ASSERT_OK(pods.take_set());
    // The server's end and its listener are forgotten.
    pods.server().objects().mutable_files()->Clear();
    pods.server().objects().mutable_processes(0)->clear_fds();
    pods.move();
    pods.reset_outside = reset;
    const Status restarted = pods.restart();
    if (!reset) {
      EXPECT_EQ(restarted.code(), Code::kUnsupported) << restarted.message();
      EXPECT_NE(restarted.message().find("process 1, fd 3"), std::string::npos)
          << restarted.message();
      EXPECT_NE(restarted.message().find(":7000"), std::string::npos) << restarted.message();
      continue;
    }
    ASSERT_TRUE(restarted) << restarted.message();
    const UniqueFd client = pods.client_fd();
    pollfd state{client.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&state, 1, 5000), 1);
    EXPECT_EQ(state.revents & (POLLERR | POLLHUP), POLLERR | POLLHUP);
    EXPECT_EQ(int_option(client, SOL_SOCKET, SO_ERROR), ECONNRESET);
  }
}

// States that a close begins.
struct Closing {
  const char* name;
  void (*before_cut)(const UniqueFd& client, const UniqueFd& server);
  void (*behind_cut)(const UniqueFd& client, const UniqueFd& server);
  int client_state;
  int server_state;
};

void shut(const UniqueFd& fd) { ASSERT_EQ(::shutdown(fd.get(), SHUT_WR), 0); }
void nothing(const UniqueFd& client, const UniqueFd& server) {
  ASSERT_GE(client.get(), 0);
  ASSERT_GE(server.get(), 0);
}
void client_shuts(const UniqueFd& client, const UniqueFd& server) {
  shut(client);
  EXPECT_TRUE(eventually([&] { return state_of(client) == kFinWait2; }));
  EXPECT_EQ(state_of(server), kCloseWait);
}
// The client hears of the server's end, and the server of nothing.
void both_shut_and_the_server_is_deaf(const UniqueFd& client, const UniqueFd& server) {
  deafen(server);
  shut(client);
  shut(server);
  EXPECT_TRUE(eventually([&] { return state_of(client) == kClosing; }));
}

const Closing kClosings[] = {
    {"FinWait2", client_shuts, nothing, kFinWait2, kCloseWait},
    {"FinWait1", nothing, [](const UniqueFd& client, const UniqueFd&) { shut(client); }, kFinWait1,
     kEstablished},
    {"FinWait1Both", nothing,
     [](const UniqueFd& client, const UniqueFd& server) {
       shut(client);
       shut(server);
     },
     kFinWait1, kFinWait1},
    {"Closing", both_shut_and_the_server_is_deaf, nothing, kClosing, kFinWait1},
    {"LastAck", client_shuts, [](const UniqueFd&, const UniqueFd& server) { shut(server); },
     kFinWait2, kLastAck},
};

class TcpClosing : public ::testing::TestWithParam<Closing> {};

TEST_P(TcpClosing, State_GoesOn_WithTheDataBeforeTheEnd) {
  const Closing& how = GetParam();
  TwoPods pods({});
  {
    const UniqueFd client = pods.client_fd();
    const UniqueFd server = pods.server_fd();
    put(client, "from the client");
    put(server, "from the server");
    EXPECT_TRUE(eventually([&] { return queued(client, SIOCINQ) == 15; }));
    EXPECT_TRUE(eventually([&] { return queued(server, SIOCINQ) == 15; }));
    how.before_cut(client, server);
    pods.cut();
    how.behind_cut(client, server);
    EXPECT_EQ(state_of(client), how.client_state);
    EXPECT_EQ(state_of(server), how.server_state);
  }
  ASSERT_OK(pods.take_set());
  pods.move();
  ASSERT_OK(pods.restart());
  const UniqueFd client = pods.client_fd();
  const UniqueFd server = pods.server_fd();
  const bool client_shut = has_sent_fin(how.client_state);
  const bool server_shut = has_sent_fin(how.server_state);
  // What had been heard of is known at once.
  if (has_received_fin(how.server_state)) {
    pollfd state{server.get(), POLLRDHUP, 0};
    EXPECT_EQ(::poll(&state, 1, 0), 1);
  }
  EXPECT_EQ(take(server, 15), "from the client");
  EXPECT_EQ(take(client, 15), "from the server");
  if (!client_shut) {
    put(client, ", and more");
    EXPECT_EQ(take(server, 10), ", and more");
  } else {
    EXPECT_EQ(take(server, 1), "");
    char byte = 0;
    EXPECT_EQ(::recv(server.get(), &byte, 1, MSG_DONTWAIT), 0) << "errno " << errno;
    EXPECT_EQ(::send(client.get(), "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, EPIPE);
  }
  if (!server_shut) {
    put(server, ", and more");
    EXPECT_EQ(take(client, 10), ", and more");
  } else {
    EXPECT_EQ(take(client, 1), "");
    char byte = 0;
    EXPECT_EQ(::recv(client.get(), &byte, 1, MSG_DONTWAIT), 0) << "errno " << errno;
  }
  // In the end both are where they would have been.
  if (!client_shut) ::shutdown(client.get(), SHUT_WR);
  if (!server_shut) ::shutdown(server.get(), SHUT_WR);
  EXPECT_TRUE(eventually([&] {
    return state_of(client) == kClose || state_of(client) == kTimeWait;
  })) << state_of(client);
  EXPECT_TRUE(eventually([&] {
    return state_of(server) == kClose || state_of(server) == kTimeWait;
  })) << state_of(server);
  EXPECT_EQ(int_option(client, SOL_SOCKET, SO_ERROR), 0);
  EXPECT_EQ(int_option(server, SOL_SOCKET, SO_ERROR), 0);
}

INSTANTIATE_TEST_SUITE_P(All, TcpClosing, ::testing::ValuesIn(kClosings),
                         [](const auto& one) { return one.param.name; });

// The other end is closed and gone: it has no record, and nobody sends its FIN again.
TEST(TcpOutside, ClosedOtherEnd_LeavesItsDataAndTheEnd) {
  TwoPods pods({.server_does = [] {
    if (::send(4, "goodbye", 7, 0) != 7 || ::close(4) != 0) std::abort();
  }});
  EXPECT_TRUE(eventually([&] { return state_of(pods.client_fd()) == kCloseWait; }));
  ASSERT_OK(pods.take_set_patiently());
  EXPECT_EQ(pods.client().outside().connections.at(0).state(), "close-wait");
  // The listener does not stand for it: its port is another socket's.
  pods.server().objects().mutable_files()->Clear();
  pods.server().objects().mutable_processes(0)->clear_fds();
  pods.move();
  ASSERT_OK(pods.restart());
  for (int i = 0; i < 2; ++i) {
    const UniqueFd client = pods.client_fd();
    pollfd state{client.get(), POLLIN | POLLRDHUP, 0};
    ASSERT_EQ(::poll(&state, 1, 5000), 1);
    if (i == 1) break;
    // A second restart brings the same.
    ASSERT_OK(pods.take_set_patiently());
    pods.move();
    ASSERT_OK(pods.restart());
  }
  const UniqueFd client = pods.client_fd();
  EXPECT_EQ(take(client, 100), "goodbye");
  char byte = 0;
  EXPECT_EQ(::recv(client.get(), &byte, 1, MSG_DONTWAIT), 0);
}

}  // namespace
}  // namespace fermata::engine
