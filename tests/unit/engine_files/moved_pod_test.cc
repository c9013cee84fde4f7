// Sockets of one pod that is rebuilt on a node with other addresses, where ports may be taken.
#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "node-agent/engine/tcp_states.h"
#include "two_pods.h"

namespace fermata::engine {
namespace {

const sockaddr* generic(const sockaddr_in& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

sockaddr_in at(const char* host, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (::inet_pton(AF_INET, host, &address.sin_addr) != 1) std::abort();
  return address;
}

int bound(int type, const sockaddr_in& address) {
  const int fd = ::socket(AF_INET, type, 0);
  if (::bind(fd, generic(address), sizeof address) != 0) std::abort();
  return fd;
}

constexpr const char* kThen = "10.251.0.1";
constexpr const char* kNow = "10.252.0.1";
constexpr uint16_t kPort = 7000;
constexpr uint16_t kUdpPort = 7001;
constexpr uint16_t kNearPort = 7002;

class MovedPod : public ::testing::Test {
 protected:
  MovedPod() {
    EXPECT_TRUE(then_.run(std::string("ip addr add ") + kThen + "/24 dev lo"));
    EXPECT_TRUE(now_.run(std::string("ip addr add ") + kNow + "/24 dev lo"));
  }
  ~MovedPod() override { NodeDouble::leave(); }

  void start(const std::function<void()>& program) {
    then_.enter();
    pod_ = std::make_unique<PodDouble>(program);
    NodeDouble::leave();
  }

  UniqueFd thief(int type, uint16_t port) {
    now_.enter();
    UniqueFd taken(bound(type, at("0.0.0.0", port)));
    if (type == SOCK_STREAM && ::listen(taken.get(), 1) != 0) std::abort();
    NodeDouble::leave();
    return taken;
  }

  Status capture() {
    then_.enter();
    pod_->outside().allowed = true;
    Status status = pod_->capture();
    NodeDouble::leave();
    return status;
  }

  Status rebuild() {
    NetworkRequest request;
    request.address_here = [](const InetAddress& then) -> Result<InetAddress> {
      if (then.is_loopback() || then.is_wildcard()) return then;
      const sockaddr_in here = at(kNow, 0);
      return InetAddress(&here.sin_addr, AF_INET, 0);
    };
    request.exchange = [this](const image::AddressMap& own) -> Result<image::AddressMap> {
      own_ = own;
      return own;
    };
    pod_->set_network(std::move(request));
    now_.enter();
    Status status = pod_->rebuild();
    NodeDouble::leave();
    return status;
  }

  std::string told(int protocol, const char* host, uint16_t port) {
    const sockaddr_in from = at(host, port);
    for (const image::AddressEntry& entry : own_.entries()) {
      if (entry.protocol() == static_cast<uint32_t>(protocol) &&
          entry.from() == InetAddress(&from.sin_addr, AF_INET, port).bytes()) {
        return InetAddress::parse(entry.to())->text();
      }
    }
    return "not told";
  }

  UniqueFd fd(int number) { return pod_->fd(1, number); }

  NodeDouble then_;
  NodeDouble now_;
  std::unique_ptr<PodDouble> pod_;
  image::AddressMap own_;
};

// What is bound to [::] is reached by IPv4 unless it says otherwise (IPV6_V6ONLY): others have to
// be told which.
TEST_F(MovedPod, ASocketOfBothFamilies_IsToldForBoth_OneOfIpv6AloneIsNot) {
  start([] {
    for (const uint16_t port : {kPort, kNearPort}) {
      const int fd = ::socket(AF_INET6, SOCK_STREAM, 0);
      const int only = port == kPort ? 1 : 0;
      sockaddr_in6 all{};
      all.sin6_family = AF_INET6;
      all.sin6_port = htons(port);
      if (::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) != 0 ||
          ::bind(fd, reinterpret_cast<sockaddr*>(&all), sizeof all) != 0 || ::listen(fd, 1) != 0) {
        std::abort();
      }
    }
  });
  ASSERT_OK(capture());
  ASSERT_OK(rebuild());
  EXPECT_EQ(told(IPPROTO_TCP, "0.0.0.0", kPort), "not told");
  EXPECT_EQ(told(IPPROTO_TCP, "0.0.0.0", kNearPort), "0.0.0.0:" + std::to_string(kNearPort));
}

// A listener, both ends of an accepted connection, and one that waits to be accepted.
TEST_F(MovedPod, ConnectionsInside_FollowTheirAddresses) {
  start([] {
    const int listener = bound(SOCK_STREAM, at(kThen, kPort));
    if (::listen(listener, 8) != 0) std::abort();
    for (int fd = 4; fd <= 6; fd += 2) {
      if (::connect(::socket(AF_INET, SOCK_STREAM, 0), generic(at(kThen, kPort)),
                    sizeof(sockaddr_in)) != 0) {
        std::abort();
      }
      if (fd == 4 && ::accept(listener, nullptr, nullptr) != 5) std::abort();
    }
    if (::send(4, "unread", 6, 0) != 6) std::abort();
  });
  ASSERT_OK(capture());
  EXPECT_TRUE(pod_->outside().connections.empty());
  const UniqueFd taken = thief(SOCK_STREAM, kPort);
  ASSERT_OK(rebuild());
  const uint16_t port = local_of(fd(3)).port();
  EXPECT_NE(port, kPort);
  EXPECT_EQ(local_of(fd(3)).text(), std::string(kNow) + ":" + std::to_string(port));
  EXPECT_EQ(local_of(fd(5)).text(), local_of(fd(3)).text());
  EXPECT_EQ(InetAddress::remote_of(fd(4).get())->text(), local_of(fd(5)).text());
  EXPECT_EQ(told(IPPROTO_TCP, kThen, kPort), local_of(fd(3)).text());
  EXPECT_EQ(take(fd(5), 6), "unread");
  put(fd(5), "back");
  EXPECT_EQ(take(fd(4), 4), "back");
  const UniqueFd accepted(::accept(fd(3).get(), nullptr, nullptr));
  put(fd(6), "waited");
  EXPECT_EQ(take(accepted, 6), "waited");
}

TEST_F(MovedPod, Loopback_Stays_AndATakenPortIsReplaced) {
  start([] {
    const int listener = bound(SOCK_STREAM, at("127.0.0.1", kNearPort));
    if (::listen(listener, 8) != 0 ||
        ::connect(::socket(AF_INET, SOCK_STREAM, 0), generic(at("127.0.0.1", kNearPort)),
                  sizeof(sockaddr_in)) != 0 ||
        ::accept(listener, nullptr, nullptr) != 5) {
      std::abort();
    }
  });
  ASSERT_OK(capture());
  const UniqueFd taken = thief(SOCK_STREAM, kNearPort);
  ASSERT_OK(rebuild());
  EXPECT_TRUE(local_of(fd(3)).is_loopback());
  EXPECT_NE(local_of(fd(3)).port(), kNearPort);
  EXPECT_EQ(told(IPPROTO_TCP, "127.0.0.1", kNearPort), local_of(fd(3)).text());
  put(fd(4), "hello");
  EXPECT_EQ(take(fd(5), 5), "hello");
}

// Bound to one address and to all, connected to each other, with a datagram unread.
TEST_F(MovedPod, UdpSockets_FollowTheirAddresses) {
  start([] {
    bound(SOCK_DGRAM, at(kThen, kUdpPort));
    const int other = bound(SOCK_DGRAM, at(kThen, kUdpPort + 1));
    if (::connect(other, generic(at(kThen, kUdpPort)), sizeof(sockaddr_in)) != 0 ||
        ::send(other, "unread", 6, 0) != 6) {
      std::abort();
    }
    bound(SOCK_DGRAM, at("0.0.0.0", kUdpPort + 2));
  });
  ASSERT_OK(capture());
  const UniqueFd taken = thief(SOCK_DGRAM, kUdpPort);
  ASSERT_OK(rebuild());
  EXPECT_NE(local_of(fd(3)).port(), kUdpPort);
  EXPECT_EQ(local_of(fd(4)).text(), std::string(kNow) + ":" + std::to_string(kUdpPort + 1));
  EXPECT_EQ(InetAddress::remote_of(fd(4).get())->text(), local_of(fd(3)).text());
  EXPECT_EQ(told(IPPROTO_UDP, "0.0.0.0", kUdpPort + 2), "0.0.0.0:7003");
  EXPECT_EQ(take(fd(3), 6), "unread");
  put(fd(4), "and more");
  EXPECT_EQ(take(fd(3), 8), "and more");
}

}  // namespace
}  // namespace fermata::engine
