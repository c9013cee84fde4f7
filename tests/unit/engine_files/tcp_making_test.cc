// TCP connections between two pods that are just being made: waiting to be accepted, in the middle
// of the handshake, not answered yet.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "node-agent/engine/tcp_states.h"
#include "two_pods.h"

namespace fermata::engine {
namespace {

// Descriptor 4 of the client: a socket that connects without waiting.
void make_another() {
  const int type = SOCK_STREAM | SOCK_NONBLOCK;  // NOLINT(hicpp-signed-bitwise)
  if (::socket(AF_INET, type, 0) != 4) std::abort();
}

void connect_another(const UniqueFd& fd, const InetAddress& to) {
  ASSERT_EQ(::connect(fd.get(), to.get(), to.length()), -1);
  ASSERT_EQ(errno, EINPROGRESS);
}

void filter(const UniqueFd& fd, bool drop) {
  sock_filter all{BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program{1, &all};
  ASSERT_EQ(::setsockopt(fd.get(), SOL_SOCKET, drop ? SO_ATTACH_FILTER : SO_DETACH_FILTER, &program,
                         sizeof program),
            0);
}

uint32_t waiting_at(const UniqueFd& listener) { return tcp_info_of(listener.get()).tcpi_unacked; }

void expect_again_in_a_moment(const Status& status, const char* what) {
  EXPECT_EQ(status.code(), Code::kBusy);
  EXPECT_NE(status.message().find(what), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("again in a moment"), std::string::npos) << status.message();
}

// Nobody can read what waits there, but the program itself; when it has accepted it can be held.
TEST(TcpMaking, NotYetAccepted_IsHeldAMomentLater) {
  TwoPods pods({.accept = false});
  put(pods.client_fd(), "early");
  EXPECT_TRUE(eventually([&] { return waiting_at(pods.server().fd(1, 3)) == 1; }));
  expect_again_in_a_moment(pods.take_set(), "waits to be accepted");
  pods.run_on();
  ASSERT_OK(pods.server().stop());
  const Result<long> accepted =
      pods.server().stopped_process(1).call("accept4", SYS_accept4, {3, 0, 0, 0});
  ASSERT_TRUE(accepted) << accepted.error().message();
  EXPECT_EQ(*accepted, 4);
  pods.server().resume();
  ASSERT_OK(pods.take_set_patiently());
  pods.move();
  ASSERT_OK(pods.restart());
  EXPECT_EQ(take(pods.server_fd(), 5), "early");
}

// The server has answered a SYN, and the client has not heard of it.
TEST(TcpMaking, SynReceived_IsHeldAMomentLater) {
  TwoPods pods({.client_does = make_another});
  const InetAddress at = local_of(pods.server().fd(1, 3));
  {
    const UniqueFd another = pods.client().fd(1, 4);
    filter(another, true);
    connect_another(another, at);
  }
  pods.cut();
  ASSERT_OK(pods.capture_client());
  EXPECT_EQ(pods.client().objects().files(1).tcp().state(), image::TcpSocket::CONNECTING);
  expect_again_in_a_moment(pods.capture_server(), "is being made");
  pods.run_on();
  // The SYN is sent again.
  filter(pods.client().fd(1, 4), false);
  EXPECT_TRUE(eventually([&] { return state_of(pods.client().fd(1, 4)) == kEstablished; }));
}

TEST(TcpMaking, SynSent_IsSentAgain_ToTheNewAddress) {
  for (const bool isolated : {false, true}) {
    TwoPods pods({.client_does = make_another});
    const InetAddress at = local_of(pods.server().fd(1, 3));
    pods.cut();
    connect_another(pods.client().fd(1, 4), at);
    ASSERT_OK(pods.take_set());
    EXPECT_EQ(pods.client().outside().connections.size(), 1U) << "that of descriptor 3";
    pods.move();
    ASSERT_OK(pods.restart(isolated));
    const UniqueFd client = pods.client().fd(1, 4);
    EXPECT_NE(::fcntl(client.get(), F_GETFL) & O_NONBLOCK, 0);
    EXPECT_TRUE(eventually([&] { return state_of(client) == kEstablished; }));
    const UniqueFd accepted(::accept(pods.server().fd(1, 3).get(), nullptr, nullptr));
    ASSERT_GE(accepted.get(), 0);
    put(client, "hello");
    EXPECT_EQ(take(accepted, 5), "hello");
  }
}

TEST(TcpMaking, SynSentToNobodyOfTheJob_Fails) {
  TwoPods pods({.client_does = make_another});
  // Of the same network, so that only an answer is missing.
  sockaddr_in nobody{};
  std::memcpy(&nobody, local_of(pods.client_fd()).get(), sizeof nobody);
  nobody.sin_addr.s_addr = htonl(ntohl(nobody.sin_addr.s_addr) | 0x80U);
  pods.cut();
  connect_another(pods.client().fd(1, 4), InetAddress(&nobody.sin_addr, AF_INET, 9));
  ASSERT_OK(pods.take_set());
  pods.move();
  ASSERT_OK(pods.restart());
  const UniqueFd client = pods.client().fd(1, 4);
  pollfd state{client.get(), POLLOUT, 0};
  ASSERT_EQ(::poll(&state, 1, 5000), 1);
  EXPECT_EQ(state.revents & (POLLERR | POLLHUP), POLLERR | POLLHUP);
  EXPECT_EQ(int_option(client, SOL_SOCKET, SO_ERROR), ECONNRESET);
}

}  // namespace
}  // namespace fermata::engine
