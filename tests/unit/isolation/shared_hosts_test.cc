// Two pods of a step on one node: hosts 10.99.0.1 and 10.99.0.2 (fd99::1, fd99::2) are both
// 10.77.0.1 (fd77::1) on the wire, and every peer still sees the one that it knew. A third pod
// stands on another node: 10.99.0.3 is 10.77.0.3.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "node-agent/isolation/isolation.h"
#include "tests/unit/isolation/pod_group.h"
#include "tests/unit/isolation/sockets.h"
#include "tests/unit/isolation/translations.h"

namespace fermata::isolation {
namespace {

constexpr int kPatience = 20'000;

struct Family {
  const char* name;
  const char* known;  ///< without the last figure
  const char* wire;
};

class SharedHosts : public testing::TestWithParam<Family> {
 protected:
  struct Pod {
    PodGroup group;
    Result<Isolation> isolation = Isolation::install(group.path());
  };

  static Address known(int host, uint16_t port = 0) {
    return address(GetParam().known + std::to_string(host), port);
  }
  static Address wire(int host, uint16_t port = 0) {
    return address(GetParam().wire + std::to_string(host == 3 ? 3 : 1), port);
  }

  /// A pod's own entries come first.
  static void set_all(Pod& pod, int own) {
    std::vector<Entry> entries = {{0, known(own), wire(own)}};
    for (int host = 1; host <= 3; ++host) {
      if (host != own) entries.push_back({0, known(host), wire(host)});
    }
    set(*pod.isolation, entries);
  }

  void SetUp() override {
    for (int host = 1; host <= 3; ++host) {
      ASSERT_TRUE(pods_[host].isolation) << pods_[host].isolation.error().message();
      set_all(pods_[host], host);
    }
  }

  /// As addresses() has it: without a mapped form.
  static std::string described_entry(const Entry& entry) {
    image::AddressMap map;
    add(map, entry);
    std::string line = described(map);
    const std::string_view mapped = "::ffff:";
    for (size_t at = line.find(mapped); at != std::string::npos; at = line.find(mapped)) {
      line.erase(line.find(']', at), 1);
      line.erase(at - 1, mapped.size() + 1);
    }
    return line;
  }

  struct Connection {
    UniqueFd client;
    UniqueFd server;
    Address accepted;  ///< what accept4(2) returned
    uint16_t port = 0;
  };

  /// From a pod to a listener of another, by the address that the programs know.
  Connection connection(int from, int to) {
    Connection result;
    pods_[to].group.enter();
    const UniqueFd listener = bound_socket(known(to), SOCK_STREAM);
    result.port = local_of(listener).port();
    EXPECT_EQ(local_of(listener), known(to, result.port));
    pods_[from].group.enter();
    result.client = connect_from(from, known(to, result.port));
    result.accepted.length = sizeof(result.accepted.storage);
    result.server.reset(
        accept4(listener.get(), result.accepted.get(), &result.accepted.length, SOCK_CLOEXEC));
    leave_pods();
    return result;
  }

  UniqueFd connect_from(int from, const Address& to) const {
    UniqueFd client = make_socket(to.family(), SOCK_STREAM);
    // The node has four addresses here, so the source is chosen by the program, as Open MPI does.
    const Address own = known(from);
    EXPECT_EQ(bind(client.get(), own.get(), own.length), 0) << strerror(errno);
    EXPECT_EQ(connect(client.get(), to.get(), to.length), 0) << strerror(errno);
    return client;
  }

  Pod pods_[4];  // the first is not used
};

INSTANTIATE_TEST_SUITE_P(Families, SharedHosts,
                         testing::Values(Family{"v4", "10.99.0.", "10.77.0."},
                                         Family{"v6", "fd99::", "fd77::"},
                                         Family{"mapped", "::ffff:10.99.0.", "::ffff:10.77.0."}),
                         [](const auto& kind) { return kind.param.name; });

TEST_P(SharedHosts, NewConnections_ShowTheHostOfEachEnd) {
  in_network([&] {
    for (const auto& [from, to] : {std::pair(1, 2), std::pair(2, 1), std::pair(1, 3),
                                   std::pair(2, 3), std::pair(3, 1), std::pair(3, 2)}) {
      const Connection c = connection(from, to);
      EXPECT_EQ(peer_of(c.client), known(to, c.port)) << from << " to " << to;
      EXPECT_EQ(local_of(c.server), known(to, c.port)) << from << " to " << to;
      const uint16_t source = local_of(c.client).port();
      EXPECT_EQ(local_of(c.client), known(from, source)) << from << " to " << to;
      EXPECT_EQ(peer_of(c.server), known(from, source)) << from << " to " << to;
      EXPECT_EQ(c.accepted, known(from, source)) << from << " to " << to;
      EXPECT_TRUE(passes(c.client, c.server, kPatience));
      EXPECT_TRUE(passes(c.server, c.client, kPatience));
    }
  });
}

// A connect to the same port by the name of the other host made the peer of the first into that
// host.
TEST_P(SharedHosts, WhatIsLearned_DoesNotReplaceWhatWasGiven) {
  in_network([&] {
    pods_[1].group.enter();
    const UniqueFd listener = bound_socket(known(1), SOCK_STREAM);
    const uint16_t port = local_of(listener).port();
    set(*pods_[3].isolation, {{0, known(3), wire(3)},
                              {0, known(1), wire(1)},
                              {0, known(2), wire(2)},
                              {IPPROTO_TCP, known(1, port), wire(1, port)}});
    pods_[3].group.enter();
    const UniqueFd first = connect_from(3, known(1, port));
    EXPECT_EQ(peer_of(first), known(1, port));
    const UniqueFd second = connect_from(3, known(2, port));
    EXPECT_EQ(peer_of(first), known(1, port));
    leave_pods();
  });
}

TEST_P(SharedHosts, ConnectionBegunInACut_ShowsItsHost) {
  in_network([&] {
    pods_[3].group.enter();
    const UniqueFd listener = bound_socket(known(3), SOCK_STREAM);
    const Address at = local_of(listener);
    pods_[2].isolation->cut(std::chrono::hours(1));
    pods_[2].group.enter();
    const UniqueFd client = make_socket(at.family(), SOCK_STREAM | SOCK_NONBLOCK);
    const Address own = known(2);
    ASSERT_EQ(bind(client.get(), own.get(), own.length), 0);
    EXPECT_EQ(connect(client.get(), at.get(), at.length), -1);
    EXPECT_EQ(receive(listener, 100), "");
    pods_[2].isolation->join();
    const UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(peer_of(server), known(2, peer_of(server).port()));
  });
}

TEST_P(SharedHosts, WhatWasLearned_IsInAddresses_WhileTheConnectionStands) {
  in_network([&] {
    const std::string before = described(*pods_[3].isolation->addresses());
    Connection c = connection(2, 3);
    const uint16_t source = peer_of(c.server).port();
    const std::string learned = described_entry({IPPROTO_TCP, known(2, source), wire(2, source)});
    EXPECT_EQ(described(*pods_[3].isolation->addresses()), before + learned);
    // The end that closes last does not stay in TIME_WAIT.
    c.client.reset();
    EXPECT_EQ(receive(c.server, kPatience), "");
    c.server.reset();
    const auto start = std::chrono::steady_clock::now();
    while (described(*pods_[3].isolation->addresses()) != before && seconds_since(start) < 20) {
      usleep(1000);
    }
    EXPECT_EQ(described(*pods_[3].isolation->addresses()), before);
  });
}

TEST_P(SharedHosts, DatagramsAnswered_ComeFromTheHostAsked) {
  in_network([&] {
    for (const int to : {1, 2}) {
      const UniqueFd server = bound_socket(wire(to), SOCK_DGRAM);
      const Address asked = known(to, local_of(server).port());
      pods_[3].group.enter();
      const UniqueFd client = bound_socket(known(3), SOCK_DGRAM);
      leave_pods();
      ASSERT_EQ(sendto(client.get(), "a", 1, 0, asked.get(), asked.length), 1);
      Address from;
      from.length = sizeof(from.storage);
      char byte = 0;
      ASSERT_EQ(recvfrom(server.get(), &byte, 1, 0, from.get(), &from.length), 1);
      ASSERT_EQ(sendto(server.get(), "b", 1, 0, from.get(), from.length), 1);
      Address source;
      source.length = sizeof(source.storage);
      ASSERT_EQ(recvfrom(client.get(), &byte, 1, 0, source.get(), &source.length), 1);
      EXPECT_EQ(source, asked);
    }
  });
}

TEST_P(SharedHosts, EntryWithAPort_ComesBeforeTheHosts) {
  in_network([&] {
    // As after a restart: a socket of each host was moved to a port of its own.
    for (int own = 1; own <= 3; ++own) {
      std::vector<Entry> entries = {{IPPROTO_TCP, known(1, 7000), wire(1, 7000)},
                                    {IPPROTO_TCP, known(2, 7000), wire(2, 7001)}};
      // The first entry of an address says which host the pod itself is, with a port or without.
      if (own == 2) std::swap(entries[0], entries[1]);
      for (int host = 1; host <= 3; ++host) entries.push_back({0, known(host), wire(host)});
      set(*pods_[own].isolation, entries);
    }
    pods_[1].group.enter();
    const UniqueFd first = bound_socket(known(1, 7000), SOCK_STREAM);
    pods_[2].group.enter();
    const UniqueFd second = bound_socket(known(2, 7000), SOCK_STREAM);
    pods_[3].group.enter();
    const UniqueFd client = connected_socket(known(2, 7000), SOCK_STREAM);
    EXPECT_EQ(peer_of(client), known(2, 7000));
    const UniqueFd server(accept4(second.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_EQ(local_of(server), known(2, 7000));
    EXPECT_TRUE(passes(client, server, kPatience));
    pods_[2].group.enter();
    const UniqueFd another = bound_socket(known(2), SOCK_STREAM);
    EXPECT_EQ(local_of(another), known(2, local_of(another).port()));
  });
}

}  // namespace
}  // namespace fermata::isolation
