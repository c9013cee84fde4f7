// Programs go on with the addresses they know: every call of the socket interface that carries an
// address, both ways. What the programs know is 10.99.0.1 and fd99::1 (no host has them); on the
// wire they are 10.77.0.1 and fd77::1.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <cstring>
#include <string>

#include "node-agent/isolation/isolation.h"
#include "tests/unit/isolation/pod_group.h"
#include "tests/unit/isolation/sockets.h"
#include "tests/unit/isolation/translations.h"

namespace fermata::isolation {
namespace {

constexpr int kPatience = 20'000;

struct Family {
  const char* name;
  const char* known;  ///< to the programs
  const char* wire;
  const char* other;  ///< an address that is not translated
};

class Translation : public testing::TestWithParam<Family> {
 protected:
  static Address known(uint16_t port = 0) { return address(GetParam().known, port); }
  static Address wire(uint16_t port = 0) { return address(GetParam().wire, port); }
  static Address other(uint16_t port = 0) { return address(GetParam().other, port); }

  /// A socket at the wire's address and a free port, outside of every pod.
  static UniqueFd outside(int type) { return bound_socket(wire(), type); }
};

INSTANTIATE_TEST_SUITE_P(Families, Translation,
                         testing::Values(Family{"v4", "10.99.0.1", "10.77.0.1", "10.77.0.2"},
                                         Family{"v6", "fd99::1", "fd77::1", "fd77::2"},
                                         Family{"mapped", "::ffff:10.99.0.1", "::ffff:10.77.0.1",
                                                "::ffff:10.77.0.2"}),
                         [](const auto& kind) { return kind.param.name; });

TEST_P(Translation, ConnectAndGetpeername_Host) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd listener = outside(SOCK_STREAM);
    const uint16_t port = local_of(listener).port();
    set(isolation, {{0, known(), wire()}});
    group.enter();
    const UniqueFd client = connected_socket(known(port), SOCK_STREAM);
    EXPECT_EQ(peer_of(client), known(port));
    leave_pods();
    const UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(passes(client, server, kPatience));
    EXPECT_EQ(local_of(server), wire(port)) << "on the wire";
  });
}

TEST_P(Translation, ConnectAndGetpeername_PortBeforeHost) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd listener = outside(SOCK_STREAM);
    const uint16_t port = local_of(listener).port();
    // TCP only; UDP of the same port goes where the host went.
    set(isolation, {{0, known(), other()}, {IPPROTO_TCP, known(7000), local_of(listener)}});
    group.enter();
    const UniqueFd client = connected_socket(known(7000), SOCK_STREAM);
    EXPECT_EQ(peer_of(client), known(7000));
    const UniqueFd datagrams = connected_socket(known(7000), SOCK_DGRAM);
    EXPECT_EQ(peer_of(datagrams), known(7000));
    leave_pods();
    const UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(local_of(server).port(), port);
    EXPECT_TRUE(passes(client, server, kPatience));
    set(isolation, {});
    group.enter();
    EXPECT_EQ(peer_of(datagrams), other(7000)) << "on the wire";
  });
}

TEST_P(Translation, BindAcceptAndGetsockname) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    set(isolation, {{0, known(), wire()}, {IPPROTO_TCP, known(7000), wire(7001)}});
    group.enter();
    const UniqueFd listener = bound_socket(known(7000), SOCK_STREAM);
    EXPECT_EQ(local_of(listener), known(7000));
    leave_pods();
    const UniqueFd client = make_socket(wire().family(), SOCK_STREAM);
    const Address from = wire(7002);
    ASSERT_EQ(bind(client.get(), from.get(), from.length), 0);
    const Address to = wire(7001);
    ASSERT_EQ(connect(client.get(), to.get(), to.length), 0) << strerror(errno);
    group.enter();
    Address peer;
    peer.length = sizeof(peer.storage);
    const UniqueFd server(accept4(listener.get(), peer.get(), &peer.length, SOCK_CLOEXEC));
    ASSERT_TRUE(server);
    EXPECT_EQ(peer, known(7002)) << "what accept4 returns";
    EXPECT_EQ(peer_of(server), known(7002));
    EXPECT_EQ(local_of(server), known(7000));
    EXPECT_TRUE(passes(client, server, kPatience));
    EXPECT_TRUE(passes(server, client, kPatience));
  });
}

TEST_P(Translation, BindToAPortOfTheKernels) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    set(isolation, {{0, known(), wire()}});
    group.enter();
    const UniqueFd socket = bound_socket(known(), SOCK_STREAM);
    const Address at = local_of(socket);
    EXPECT_EQ(at, known(at.port()));
    EXPECT_NE(at.port(), 0);
  });
}

TEST_P(Translation, ConnectedDatagrams) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd server = outside(SOCK_DGRAM);
    set(isolation, {{0, known(), wire()}});
    group.enter();
    const UniqueFd client = connected_socket(known(local_of(server).port()), SOCK_DGRAM);
    EXPECT_EQ(peer_of(client), known(peer_of(client).port()));
    const Address own = local_of(client);
    EXPECT_EQ(own, known(own.port()));
    ASSERT_TRUE(send_bytes(client, "a"));
    Address from;
    from.length = sizeof(from.storage);
    char byte = 0;
    leave_pods();
    ASSERT_EQ(recvfrom(server.get(), &byte, 1, 0, from.get(), &from.length), 1);
    ASSERT_EQ(sendto(server.get(), "b", 1, 0, from.get(), from.length), 1);
    group.enter();
    Address source;
    source.length = sizeof(source.storage);
    ASSERT_EQ(recvfrom(client.get(), &byte, 1, 0, source.get(), &source.length), 1);
    EXPECT_EQ(source, known(source.port()));
  });
}

TEST_P(Translation, UnconnectedDatagrams_SendtoAndRecvfrom) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd server = outside(SOCK_DGRAM);
    set(isolation, {{0, known(), wire()}, {IPPROTO_UDP, known(7000), local_of(server)}});
    group.enter();
    const UniqueFd client = bound_socket(known(), SOCK_DGRAM);
    const Address to = known(7000);
    ASSERT_EQ(sendto(client.get(), "a", 1, 0, to.get(), to.length), 1) << strerror(errno);
    EXPECT_EQ(to, known(7000)) << "the caller's own bytes stay";
    Address from;
    from.length = sizeof(from.storage);
    char byte = 0;
    ASSERT_EQ(recvfrom(server.get(), &byte, 1, 0, from.get(), &from.length), 1);
    EXPECT_EQ(from, wire(from.port()));
    ASSERT_EQ(sendto(server.get(), "b", 1, 0, from.get(), from.length), 1);
    Address source;
    source.length = sizeof(source.storage);
    ASSERT_EQ(recvfrom(client.get(), &byte, 1, 0, source.get(), &source.length), 1);
    EXPECT_EQ(source, to);
  });
}

TEST_P(Translation, UnconnectedDatagrams_SendmmsgAndRecvmmsg) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd server = outside(SOCK_DGRAM);
    set(isolation, {{0, known(), wire()}, {IPPROTO_UDP, known(7000), local_of(server)}});
    group.enter();
    const UniqueFd client = bound_socket(known(), SOCK_DGRAM);
    Address to = known(7000);
    char byte = 'a';
    iovec bytes{&byte, 1};
    mmsghdr message{};
    message.msg_hdr.msg_name = to.get();
    message.msg_hdr.msg_namelen = to.length;
    message.msg_hdr.msg_iov = &bytes;
    message.msg_hdr.msg_iovlen = 1;
    ASSERT_EQ(sendmmsg(client.get(), &message, 1, 0), 1) << strerror(errno);
    Address from;
    from.length = sizeof(from.storage);
    ASSERT_EQ(recvfrom(server.get(), &byte, 1, 0, from.get(), &from.length), 1);
    ASSERT_EQ(sendto(server.get(), "b", 1, 0, from.get(), from.length), 1);
    Address source;
    message.msg_hdr.msg_name = source.get();
    message.msg_hdr.msg_namelen = sizeof(source.storage);
    ASSERT_EQ(recvmmsg(client.get(), &message, 1, 0, nullptr), 1);
    source.length = message.msg_hdr.msg_namelen;
    EXPECT_EQ(source, known(7000));
  });
}

TEST_P(Translation, SourceNamedInAMessage) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const bool v4_packets = std::string(GetParam().name) != "v6";
    const UniqueFd server = outside(SOCK_DGRAM);
    set(isolation, {{0, known(), wire()}});
    group.enter();
    const UniqueFd client = make_socket(known().family(), SOCK_DGRAM);
    Address to = known(local_of(server).port());
    char byte = 'a';
    iovec bytes{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(in6_pktinfo))] = {};
    msghdr message{};
    message.msg_name = to.get();
    message.msg_namelen = to.length;
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control;
    cmsghdr& head = *reinterpret_cast<cmsghdr*>(control);
    if (v4_packets) {
      message.msg_controllen = CMSG_SPACE(sizeof(in_pktinfo));
      head = {CMSG_LEN(sizeof(in_pktinfo)), IPPROTO_IP, IP_PKTINFO};
      in_pktinfo source{};
      const Address from = address("10.99.0.1");
      source.ipi_spec_dst = reinterpret_cast<const sockaddr_in*>(from.get())->sin_addr;
      std::memcpy(CMSG_DATA(&head), &source, sizeof(source));
    } else {
      message.msg_controllen = CMSG_SPACE(sizeof(in6_pktinfo));
      head = {CMSG_LEN(sizeof(in6_pktinfo)), IPPROTO_IPV6, IPV6_PKTINFO};
      in6_pktinfo source{};
      const Address from = known();
      source.ipi6_addr = reinterpret_cast<const sockaddr_in6*>(from.get())->sin6_addr;
      std::memcpy(CMSG_DATA(&head), &source, sizeof(source));
    }
    const ssize_t sent = sendmsg(client.get(), &message, 0);
    if (!v4_packets) {
      // ip6_datagram_send_ctl() asks whether the host has the address before any program is run.
      EXPECT_EQ(sent, -1) << "the limit that the header names is none (any more)";
      return;
    }
    EXPECT_EQ(sent, 1) << strerror(errno);
    EXPECT_EQ(receive(server, kPatience), "a");
  });
}

TEST_P(Translation, FirstBytesWithTheConnection) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd listener = outside(SOCK_STREAM);
    set(isolation, {{0, known(), wire()}});
    group.enter();
    const UniqueFd client = make_socket(known().family(), SOCK_STREAM);
    const Address to = known(local_of(listener).port());
    ASSERT_EQ(sendto(client.get(), "a", 1, MSG_FASTOPEN, to.get(), to.length), 1)
        << strerror(errno);
    leave_pods();
    const UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(receive(server, kPatience), "a");
  });
}

TEST_P(Translation, OtherAddressesStay) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd listener = bound_socket(other(), SOCK_STREAM);
    set(isolation, {{0, known(), wire()}});
    group.enter();
    const UniqueFd client = connected_socket(local_of(listener), SOCK_STREAM);
    EXPECT_EQ(peer_of(client), local_of(listener));
  });
}

TEST(TranslationTest, WildcardWithAPortReplaced_IsReachedByLoopbackToo) {
  using Case = std::pair<const char*, const char*>;
  for (const Case& both :
       {Case("0.0.0.0", "127.0.0.1"), Case("::", "::1"), Case("::", "127.0.0.1")}) {
    in_pod([&](Isolation& isolation, const PodGroup& group) {
      set(isolation, {{IPPROTO_TCP, address(both.first, 7000), address(both.first, 7001)}});
      const UniqueFd taken = bound_socket(address("10.77.0.4", 7000), SOCK_STREAM);
      group.enter();
      const UniqueFd listener = bound_socket(address(both.first, 7000), SOCK_STREAM);
      EXPECT_EQ(local_of(listener), address(both.first, 7000));
      const UniqueFd client = connected_socket(address(both.second, 7000), SOCK_STREAM);
      EXPECT_EQ(peer_of(client), address(both.second, 7000));
      const UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      EXPECT_EQ(local_of(server).port(), 7000);
      EXPECT_TRUE(passes(client, server, kPatience));
    });
  }
}

TEST(TranslationTest, TwoHostsChangePlaces) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd one = bound_socket(address("10.77.0.1", 7000), SOCK_DGRAM);
    const UniqueFd two = bound_socket(address("10.77.0.2", 7000), SOCK_DGRAM);
    set(isolation, {{0, address("10.77.0.1"), address("10.77.0.2")},
                    {0, address("10.77.0.2"), address("10.77.0.1")}});
    group.enter();
    const UniqueFd client = connected_socket(address("10.77.0.1", 7000), SOCK_DGRAM);
    EXPECT_EQ(peer_of(client), address("10.77.0.1", 7000));
    EXPECT_TRUE(passes(client, two, kPatience));
  });
}

TEST(TranslationTest, Addresses_AreWhatWasSet_AlsoForANewAgent) {
  const PodGroup group;
  {
    Result<Isolation> isolation = Isolation::install(group.path());
    ASSERT_TRUE(isolation) << isolation.error().message();
    EXPECT_EQ(isolation->addresses()->entries_size(), 0);
    set(*isolation, {{IPPROTO_TCP, address("10.1.1.1", 1), address("10.1.1.2", 2)}});
    set(*isolation, {{0, address("10.99.0.2"), address("10.77.0.2")},
                     {IPPROTO_UDP, address("fd99::1", 9), address("fd77::1", 10)},
                     {IPPROTO_TCP, address("10.99.0.1", 7000), address("10.77.0.1", 7001)},
                     {0, address("0.0.0.0", 5), address("0.0.0.0", 6)}});
  }
  Result<Isolation> found = Isolation::find(group.path());
  ASSERT_TRUE(found) << found.error().message();
  const Result<image::AddressMap> map = found->addresses();
  ASSERT_TRUE(map) << map.error().message();
  EXPECT_EQ(described(*map),
            "any 10.99.0.2:0 -> 10.77.0.2:0\n"
            "udp [fd99::1]:9 -> [fd77::1]:10\n"
            "tcp 10.99.0.1:7000 -> 10.77.0.1:7001\n"
            "any 0.0.0.0:5 -> 0.0.0.0:6\n");
}

TEST(TranslationTest, ThousandsOfEntries_AreReplacedWithoutAGap) {
  in_pod([](Isolation& isolation, const PodGroup& group) {
    const UniqueFd server = bound_socket(address("10.77.0.1", 7000), SOCK_DGRAM);
    std::vector<Entry> entries = {{0, address("10.99.0.1"), address("10.77.0.1")}};
    for (uint16_t port = 10'000; port < 30'000; ++port) {
      entries.push_back({IPPROTO_TCP, address("10.99.0.1", port), address("10.77.0.1", port)});
    }
    for (int round = 0; round < 3; ++round) {
      set(isolation, entries);
      EXPECT_EQ(isolation.addresses()->entries_size(), static_cast<int>(entries.size()));
    }
    group.enter();
    const UniqueFd client = connected_socket(address("10.99.0.1", 7000), SOCK_DGRAM);
    EXPECT_TRUE(passes(client, server, kPatience));
  });
}

TEST(TranslationTest, TooManyEntries_AreRefusedAndTheOldStay) {
  const PodGroup group;
  Result<Isolation> isolation = Isolation::install(group.path());
  ASSERT_TRUE(isolation) << isolation.error().message();
  set(*isolation, {{0, address("10.99.0.1"), address("10.77.0.1")}});
  image::AddressMap many;
  for (int host = 0; host < 3; ++host) {
    for (uint16_t port = 1; port < 30'000; ++port) {
      add(many, {IPPROTO_TCP, address("10.99.0." + std::to_string(host), port),
                 address("10.77.0." + std::to_string(host), port)});
    }
  }
  const Status status = isolation->set_addresses(many);
  EXPECT_EQ(status.code(), Code::kUnsupported) << status.message();
  EXPECT_EQ(described(*isolation->addresses()), "any 10.99.0.1:0 -> 10.77.0.1:0\n");
}

TEST(TranslationTest, WrongEntries_AreNamed) {
  const PodGroup group;
  Result<Isolation> isolation = Isolation::install(group.path());
  ASSERT_TRUE(isolation) << isolation.error().message();
  const auto refused = [&](const Entry& entry) {
    image::AddressMap map;
    add(map, entry);
    const Status status = isolation->set_addresses(map);
    EXPECT_EQ(status.code(), Code::kDamaged);
    return status.message();
  };
  using testing::HasSubstr;
  EXPECT_THAT(refused({0, address("10.99.0.1"), address("fd77::1")}), HasSubstr("family"));
  EXPECT_THAT(refused({0, address("10.99.0.1", 1), address("10.77.0.1")}), HasSubstr("port"));
  EXPECT_THAT(refused({1, address("10.99.0.1"), address("10.77.0.1")}), HasSubstr("protocol 1"));
  EXPECT_THAT(refused({0, Address{}, address("10.77.0.1")}), HasSubstr("neither IPv4 nor IPv6"));
}

}  // namespace
}  // namespace fermata::isolation
