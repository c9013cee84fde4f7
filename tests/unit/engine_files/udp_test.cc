// UDP sockets: address, peer, unread datagrams with their senders; route netlink.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "pod_double.h"

namespace fermata::engine {
namespace {

#define ASSERT_OK(expr)                                      \
  do {                                                       \
    const Status assert_status_ = (expr);                    \
    ASSERT_TRUE(assert_status_) << assert_status_.message(); \
  } while (0)

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = port;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

const sockaddr* generic(const sockaddr_in& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

sockaddr_in local_of(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return address;
}

int make_bound() {
  const int fd = ::socket(AF_INET, SOCK_DGRAM, 0);
  const sockaddr_in address = loopback(0);
  if (::bind(fd, generic(address), sizeof address) != 0) std::abort();
  return fd;
}

std::string take(int fd, uint16_t* port) {
  char buffer[64];
  sockaddr_in source{};
  socklen_t size = sizeof source;
  const ssize_t n = ::recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT,
                               reinterpret_cast<sockaddr*>(&source), &size);
  if (n < 0) return "errno " + std::to_string(errno);
  if (port != nullptr) *port = source.sin_port;
  return {buffer, static_cast<size_t>(n)};
}

TEST(Udp, UnreadDatagrams_KeepBoundariesAndSenders) {
  PodDouble pod([] {
    const int receiver = make_bound();  // 3
    const int sender = make_bound();    // 4
    const sockaddr_in to = local_of(receiver);
    ::sendto(sender, "one", 3, 0, generic(to), sizeof to);
    ::sendto(sender, "second", 6, 0, generic(to), sizeof to);
    const int connected = ::socket(AF_INET, SOCK_DGRAM, 0);  // 5
    if (::connect(connected, generic(to), sizeof to) != 0) std::abort();
    const int gone = make_bound();
    ::sendto(gone, "third", 5, 0, generic(to), sizeof to);
    ::close(gone);
  });
  const sockaddr_in to = local_of(pod.fd(1, 3).get());
  const sockaddr_in sender = local_of(pod.fd(1, 4).get());
  ASSERT_OK(pod.capture());
  pod.resume();
  ASSERT_OK(pod.capture());  // the first look has left everything in place
  ASSERT_OK(pod.rebuild());
  const UniqueFd receiver = pod.fd(1, 3);
  EXPECT_EQ(local_of(receiver.get()).sin_port, to.sin_port);
  uint16_t port = 0;
  EXPECT_EQ(take(receiver.get(), &port), "one");
  EXPECT_EQ(port, sender.sin_port);
  EXPECT_EQ(take(receiver.get(), &port), "second");
  EXPECT_EQ(take(receiver.get(), &port), "third");
  EXPECT_NE(port, sender.sin_port);
  EXPECT_EQ(::send(pod.fd(1, 5).get(), "fourth", 6, 0), 6);
  EXPECT_EQ(take(receiver.get(), nullptr), "fourth");
}

TEST(Udp, DatagramFromOutside_IsWaitedFor_UntilItWasRead) {
  const UniqueFd outside(make_bound());
  PodDouble pod([] { make_bound(); });
  const sockaddr_in to = local_of(pod.fd(1, 3).get());
  ASSERT_EQ(::sendto(outside.get(), "hello", 5, 0, generic(to), sizeof to), 5);
  const Status status = pod.capture();
  EXPECT_EQ(status.code(), Code::kBusy);
  const std::string from = "127.0.0.1:" + std::to_string(ntohs(local_of(outside.get()).sin_port));
  EXPECT_NE(status.message().find(from), std::string::npos) << status.message();
  pod.resume();
  EXPECT_EQ(take(pod.fd(1, 3).get(), nullptr), "hello");
  ASSERT_OK(pod.capture());
}

TEST(Netlink, RouteSocket_IsMadeAgain_OthersAreRefused) {
  PodDouble pod([] { ::socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE); });
  ASSERT_OK(pod.cut_and_rebuild());
  int protocol = -1;
  socklen_t size = sizeof protocol;
  ::getsockopt(pod.fd(1, 3).get(), SOL_SOCKET, SO_PROTOCOL, &protocol, &size);
  EXPECT_EQ(protocol, NETLINK_ROUTE);
  PodDouble other([] { ::socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC); });
  const Status status = other.capture();
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_NE(status.message().find("netlink"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace fermata::engine
