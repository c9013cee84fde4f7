// TCP connections inside the pod: both queues, half-closed states, listeners, what waits to be
// accepted.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "pod_double.h"
#include "stream_text.h"

namespace fermata::engine {
namespace {

#define ASSERT_OK(expr)                                      \
  do {                                                       \
    const Status assert_status_ = (expr);                    \
    ASSERT_TRUE(assert_status_) << assert_status_.message(); \
  } while (0)

sockaddr_in6 any_port(bool v6) {
  sockaddr_in6 address{};
  if (v6) {
    address.sin6_family = AF_INET6;
    address.sin6_addr = in6addr_loopback;
  } else {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
    v4->sin_family = AF_INET;
    v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  return address;
}

// Listener at 3, client at 4, accepted at 5 (none when `accept` is false).
void connect_to_self(bool v6 = false, bool accept = true) {
  sockaddr_in6 address = any_port(v6);
  socklen_t size = v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  const int family = v6 ? AF_INET6 : AF_INET;
  const int listener = ::socket(family, SOCK_STREAM, 0);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener, 7) != 0) {
    std::abort();
  }
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  const int client = ::socket(family, SOCK_STREAM, 0);
  if (::connect(client, reinterpret_cast<sockaddr*>(&address), size) != 0) std::abort();
  if (accept && ::accept(listener, nullptr, nullptr) != 5) std::abort();
}

void put(int fd, const std::string& bytes) {
  if (::send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT) != static_cast<ssize_t>(bytes.size())) {
    std::abort();
  }
}

// Reads until `size` bytes are there, the stream ends, or nothing comes for 3 seconds.
std::string take(int fd, size_t size) {
  std::string all;
  std::string buffer(1 << 16, '\0');
  while (all.size() < size) {
    pollfd ready{fd, POLLIN, 0};
    if (::poll(&ready, 1, 3000) != 1) break;
    const ssize_t n = ::recv(fd, buffer.data(), std::min(buffer.size(), size - all.size()), 0);
    if (n <= 0) break;
    all.append(buffer.data(), static_cast<size_t>(n));
  }
  return all;
}

int option(int fd, int level, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  ::getsockopt(fd, level, name, &value, &size);
  return value;
}

class TcpFamilies : public ::testing::TestWithParam<bool> {};

TEST_P(TcpFamilies, Connection_KeepsBothQueues_AcrossRestart) {
  PodDouble pod([] {
    connect_to_self(GetParam());
    put(4, pattern(20000, 1));
    put(5, pattern(300, 2));
    ::usleep(1000);
    char part[100];
    if (::recv(5, part, sizeof part, 0) != sizeof part) std::abort();
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd client = pod.fd(1, 4);
  const UniqueFd server = pod.fd(1, 5);
  EXPECT_TRUE(same(take(server.get(), 19900), pattern(20000, 1).substr(100)));
  EXPECT_TRUE(same(take(client.get(), 300), pattern(300, 2)));
  put(client.get(), "again");
  put(server.get(), "and back");
  EXPECT_EQ(take(server.get(), 5), "again");
  EXPECT_EQ(take(client.get(), 8), "and back");
}

INSTANTIATE_TEST_SUITE_P(BothFamilies, TcpFamilies, ::testing::Bool());

// The receiver's window is full: the sender holds megabytes that no queue of the receiver has.
TEST(Tcp, Connection_KeepsWhatTheWindowDidNotLetThrough) {
  PodDouble pod([] {
    connect_to_self();
    const int small = 200000;
    ::setsockopt(5, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    const int big = 4 << 20;
    ::setsockopt(4, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
    put(4, pattern(3 << 20, 3));
    ::usleep(20000);
  });
  ASSERT_OK(pod.capture());
  const image::TcpSocket& client = pod.objects().files(1).tcp();
  const image::TcpSocket& server = pod.objects().files(2).tcp();
  EXPECT_GT(client.to_send().size(), 1U << 20);
  EXPECT_TRUE(same(server.received() + client.to_send(), pattern(3 << 20, 3)));
  ASSERT_OK(pod.rebuild());
  EXPECT_TRUE(same(take(pod.fd(1, 5).get(), 3 << 20), pattern(3 << 20, 3)));
}

// As above, twice: the second capture meets sockets that a rebuild made.
TEST(Tcp, Connection_SurvivesTwoCuts) {
  PodDouble pod([] {
    connect_to_self();
    const int big = 2 << 20;
    ::setsockopt(4, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
    put(4, pattern(1 << 20, 4));
    put(5, pattern(1000, 5));
  });
  ASSERT_OK(pod.capture());
  const image::PodObjects first = pod.objects();
  pod.resume();
  ASSERT_OK(pod.capture());
  EXPECT_TRUE(same(pod.objects().files(2).tcp().received() + pod.objects().files(1).tcp().to_send(),
                   pattern(1 << 20, 4)));
  ASSERT_OK(pod.rebuild());
  EXPECT_TRUE(same(take(pod.fd(1, 5).get(), 1 << 20), pattern(1 << 20, 4)));
  EXPECT_TRUE(same(take(pod.fd(1, 4).get(), 1000), pattern(1000, 5)));
}

TEST(Tcp, Capture_LeavesALiveConnectionAsItWas) {
  PodDouble pod([] {
    connect_to_self();
    const int one = 1;
    ::setsockopt(4, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    const int big = 4 << 20;
    ::setsockopt(4, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
    put(4, pattern(3 << 20, 6));
  });
  ASSERT_OK(pod.capture());
  pod.resume();
  const UniqueFd client = pod.fd(1, 4);
  EXPECT_EQ(option(client.get(), SOL_SOCKET, SO_REUSEADDR), 1);
  EXPECT_EQ(option(client.get(), IPPROTO_TCP, TCP_REPAIR), 0);
  EXPECT_EQ(option(pod.fd(1, 5).get(), IPPROTO_TCP, TCP_REPAIR), 0);
  EXPECT_TRUE(same(take(pod.fd(1, 5).get(), 3 << 20), pattern(3 << 20, 6)));
  put(client.get(), "after");
  EXPECT_EQ(take(pod.fd(1, 5).get(), 5), "after");
}

TEST(Tcp, Listener_KeepsAddressBacklogAndOptions) {
  PodDouble pod([] {
    const int listener = ::socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
    sockaddr_in6 address = any_port(true);
    const int one = 1;
    ::setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    ::setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address);
    if (::listen(listener, 33) != 0) std::abort();
  });
  const UniqueFd before = pod.fd(1, 3);
  sockaddr_in6 old_address{};
  socklen_t size = sizeof old_address;
  ::getsockname(before.get(), reinterpret_cast<sockaddr*>(&old_address), &size);
  const_cast<UniqueFd&>(before).reset();
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd listener = pod.fd(1, 3);
  sockaddr_in6 address{};
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  EXPECT_EQ(address.sin6_port, old_address.sin6_port);
  EXPECT_EQ(option(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY), 1);
  EXPECT_EQ(option(listener.get(), SOL_SOCKET, SO_REUSEADDR), 1);
  EXPECT_EQ(option(listener.get(), IPPROTO_TCP, TCP_NODELAY), 1);
  EXPECT_NE(::fcntl(listener.get(), F_GETFL) & O_NONBLOCK, 0);
  tcp_info info{};
  size = sizeof info;
  ::getsockopt(listener.get(), IPPROTO_TCP, TCP_INFO, &info, &size);
  EXPECT_EQ(info.tcpi_state, TCP_LISTEN);
  EXPECT_EQ(info.tcpi_sacked, 33U);
  const UniqueFd client(::socket(AF_INET6, SOCK_STREAM, 0));
  EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
}

TEST(Tcp, HalfClosed_KeepsDataBeforeTheEnd) {
  PodDouble pod([] {
    connect_to_self();
    put(4, "the last");
    ::shutdown(4, SHUT_WR);
    put(5, "still open");
    ::usleep(2000);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd client = pod.fd(1, 4);
  const UniqueFd server = pod.fd(1, 5);
  EXPECT_EQ(take(server.get(), 100), "the last");
  char byte = 0;
  EXPECT_EQ(::recv(server.get(), &byte, 1, MSG_DONTWAIT), 0);
  put(server.get(), ", and more");
  EXPECT_EQ(take(client.get(), 20), "still open, and more");
  EXPECT_EQ(::send(client.get(), "x", 1, MSG_NOSIGNAL), -1);
  EXPECT_EQ(errno, EPIPE);
}

TEST(Tcp, PeerClosed_KeepsUnreadData) {
  PodDouble pod([] {
    connect_to_self();
    put(4, "goodbye");
    ::close(4);
    ::usleep(2000);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd server = pod.fd(1, 5);
  EXPECT_EQ(take(server.get(), 100), "goodbye");
  char byte = 0;
  EXPECT_EQ(::recv(server.get(), &byte, 1, MSG_DONTWAIT), 0);
}

TEST(Tcp, Reset_IsSeenAfterTheData) {
  PodDouble pod([] {
    connect_to_self();
    put(5, "unread by the client");
    ::usleep(1000);
    put(4, "sent before");
    ::close(5);  // with unread data: a reset
    ::usleep(2000);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd client = pod.fd(1, 4);
  pollfd state{client.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&state, 1, 0), 1);
  EXPECT_NE(state.revents & POLLERR, 0);
  EXPECT_EQ(option(client.get(), SOL_SOCKET, SO_ERROR), ECONNRESET);
}

TEST(Tcp, NotYetAccepted_IsAcceptedAfterTheRestart) {
  PodDouble pod([] { connect_to_self(false, false); });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd accepted(::accept(pod.fd(1, 3).get(), nullptr, nullptr));
  ASSERT_GE(accepted.get(), 0);
  put(pod.fd(1, 4).get(), "hello");
  EXPECT_EQ(take(accepted.get(), 5), "hello");
}

TEST(Tcp, NotYetAcceptedWithData_IsRefused) {
  PodDouble pod([] {
    connect_to_self(false, false);
    put(4, "early");
    ::usleep(100000);
  });
  const Status status = pod.capture();
  EXPECT_EQ(status.code(), Code::kBusy);
  EXPECT_NE(status.message().find("try again"), std::string::npos) << status.message();
}

TEST(Tcp, ConnectionToTheOutside_IsRefusedWithItsAddress) {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in6 address = any_port(false);
  socklen_t size = sizeof(sockaddr_in);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  PodDouble pod([&] {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) std::abort();
  });
  const UniqueFd accepted(::accept(listener.get(), nullptr, nullptr));
  const Status status = pod.capture();
  EXPECT_EQ(status.code(), Code::kCannotHold);
  const int port = ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
  EXPECT_NE(status.message().find("127.0.0.1:" + std::to_string(port)), std::string::npos)
      << status.message();
}

TEST(Tcp, PortTakenMeanwhile_NamesWhoHasIt) {
  PodDouble pod([] {
    sockaddr_in6 address = any_port(false);
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(sockaddr_in)) != 0 ||
        ::listen(listener, 1) != 0) {
      std::abort();
    }
  });
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(pod.fd(1, 3).get(), reinterpret_cast<sockaddr*>(&address), &size);
  ASSERT_OK(pod.capture());
  pod.kill();
  const UniqueFd thief(::socket(AF_INET, SOCK_STREAM, 0));
  ASSERT_EQ(::bind(thief.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(thief.get(), 1), 0);
  const Status status = pod.rebuild();
  EXPECT_EQ(status.code(), Code::kConflict) << status.message();
  EXPECT_NE(status.message().find("process " + std::to_string(::getpid())), std::string::npos)
      << status.message();
}

TEST(Tcp, New_StaysNewAndBound) {
  PodDouble pod([] {
    ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in6 address = any_port(false);
    ::bind(::socket(AF_INET, SOCK_STREAM, 0), reinterpret_cast<sockaddr*>(&address),
           sizeof(sockaddr_in));
  });
  ASSERT_OK(pod.cut_and_rebuild());
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(pod.fd(1, 3).get(), reinterpret_cast<sockaddr*>(&address), &size);
  EXPECT_EQ(address.sin_port, 0);
  ::getsockname(pod.fd(1, 4).get(), reinterpret_cast<sockaddr*>(&address), &size);
  EXPECT_NE(address.sin_port, 0);
}

}  // namespace
}  // namespace fermata::engine
