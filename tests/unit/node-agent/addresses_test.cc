// What becomes of addresses when pods are restarted elsewhere: pure logic, no network.
#include "node-agent/addresses.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

namespace fermata::node_agent {
namespace {

using engine::InetAddress;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

InetAddress at(const std::string& host, uint16_t port = 0) {
  std::array<char, sizeof(in6_addr)> raw{};
  const int family = host.find(':') == std::string::npos ? AF_INET : AF_INET6;
  EXPECT_EQ(inet_pton(family, host.c_str(), raw.data()), 1) << host;
  return {raw.data(), family, port};
}

struct Entry {
  InetAddress from;
  InetAddress to;
  uint32_t protocol = IPPROTO_TCP;
};

image::AddressMap map_of(const std::vector<Entry>& entries) {
  image::AddressMap map;
  for (const Entry& entry : entries) {
    image::AddressEntry& out = *map.add_entries();
    out.set_protocol(entry.protocol);
    out.set_from(entry.from.bytes());
    out.set_to(entry.to.bytes());
  }
  return map;
}

/// "10.0.0.1:5000 > 10.0.0.2:5000"; of a name "named ...", of any protocol "* ..." before it.
std::vector<std::string> text_of(const image::AddressMap& map) {
  std::vector<std::string> lines;
  for (const image::AddressEntry& entry : map.entries()) {
    const bool named = (entry.protocol() & kNamed) != 0;
    lines.push_back((named                   ? "named "
                     : entry.protocol() == 0 ? "* "
                                             : "") +
                    InetAddress::parse(entry.from())->text() + " > " +
                    InetAddress::parse(entry.to())->text());
  }
  return lines;
}

const std::vector<NodeAddress>& node_b() {
  static const std::vector<NodeAddress> addresses{
      {at("127.0.0.1"), 8, "lo"},   {at("192.168.7.2"), 24, "eth1"},
      {at("10.0.0.2"), 20, "eth0"}, {at("::1"), 128, "lo"},
      {at("fe80::2"), 64, "eth0"},  {at("2001:db8:1::2"), 64, "eth0"},
  };
  return addresses;
}

Result<InetAddress> on_b(const InetAddress& then) { return address_here(then, node_b()); }

TEST(AddressHere, KeepsWhatTheNodeHas_AndWhatEveryNodeHas) {
  for (const char* host : {"10.0.0.2", "127.0.0.1", "127.9.9.9", "0.0.0.0", "::1",
                           "::", "2001:db8:1::2", "fe80::2", "::ffff:10.0.0.2"}) {
    const Result<InetAddress> here = on_b(at(host, 5000));
    ASSERT_TRUE(here) << host << ": " << here.error().message();
    EXPECT_EQ(here->bytes(), at(host, 5000).bytes()) << host;
  }
}

TEST(AddressHere, TakesTheAddressOfTheSameNetwork_BeforeTheFirst) {
  EXPECT_EQ(on_b(at("10.0.15.255", 80))->text(), "10.0.0.2:80");
  EXPECT_EQ(on_b(at("192.168.7.200", 80))->text(), "192.168.7.2:80");
}

TEST(AddressHere, TakesTheFirstGlobalAddress_OfTheFamily) {
  EXPECT_EQ(on_b(at("10.0.16.1", 80))->text(), "192.168.7.2:80");
  EXPECT_EQ(on_b(at("2001:db8:9::9", 80))->text(), "[2001:db8:1::2]:80");
}

TEST(AddressHere, KeepsTheForm_OfAnIpv4AddressWrittenAsIpv6) {
  const Result<InetAddress> here = on_b(at("::ffff:10.0.0.9", 80));
  ASSERT_TRUE(here);
  EXPECT_EQ(here->family(), AF_INET6);
  EXPECT_EQ(here->text(), "[::ffff:10.0.0.2]:80");
}

TEST(AddressHere, Refuses_WhatTheNodeHasNothingFor) {
  const std::vector<NodeAddress> only_ipv4{{at("127.0.0.1"), 8, "lo"}, {at("10.0.0.2"), 24, "e"}};
  const Result<InetAddress> none = address_here(at("2001:db8::1", 80), only_ipv4);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::kUnsupported);
  EXPECT_THAT(none.error().message(), HasSubstr("[2001:db8::1]:80"));
  EXPECT_FALSE(on_b(at("fe80::9", 80))) << "link-local addresses do not travel";
}

TEST(ThisNode, HasALoopbackAddress) {
  const Result<std::vector<NodeAddress>> node = addresses_of_this_node();
  ASSERT_TRUE(node) << node.error().message();
  const auto found = std::find_if(node->begin(), node->end(), [](const NodeAddress& one) {
    return is_loopback(one.address) && one.address.family() == AF_INET;
  });
  ASSERT_NE(found, node->end()) << "no loopback interface is up here";
  EXPECT_EQ(found->prefix, 8U);
}

AddressesThen then_on_a() {
  return {{}, {at("10.0.0.1"), at("fe80::1")}, {at("10.0.0.1"), at("fe80::1")}};
}

TEST(AddressesToTell, NamesHosts_AndWhatIsBoundToAllOfThem) {
  const image::AddressMap own = map_of({{at("0.0.0.0", 1024), at("0.0.0.0", 1031)},
                                        {at("10.0.0.1", 40000), at("10.0.0.2", 40000)},
                                        {at("127.0.0.1", 700), at("127.0.0.1", 701)}});
  EXPECT_THAT(
      text_of(addresses_to_tell(own, then_on_a(), on_b)),
      UnorderedElementsAre("0.0.0.0:1024 > 0.0.0.0:1031", "named 0.0.0.0:1024 > 0.0.0.0:1031",
                           "10.0.0.1:40000 > 10.0.0.2:40000",
                           "named 10.0.0.1:40000 > 10.0.0.2:40000", "127.0.0.1:700 > 127.0.0.1:701",
                           "named 127.0.0.1:700 > 127.0.0.1:701", "10.0.0.1:1024 > 10.0.0.2:1031",
                           "named 10.0.0.1:1024 > 10.0.0.2:1031", "named 10.0.0.1:0 > 10.0.0.2:0"));
}

// A listener at [::] in one pod and one at 0.0.0.0 in another had one number on a node: the set
// "could not be connected".
TEST(AddressesToTell, ASocketOfAllIpv6Addresses_DoesNotSpeakForIpv4) {
  AddressesThen then = then_on_a();
  then.known.push_back(at("2001:db8:1::1"));
  const image::AddressMap own =
      map_of({{at("::", 1024), at("::", 1025)}, {at("0.0.0.0", 1024), at("0.0.0.0", 1026)}});
  EXPECT_THAT(text_of(addresses_to_tell(own, then, on_b)),
              UnorderedElementsAre(
                  "[::]:1024 > [::]:1025", "named [::]:1024 > [::]:1025",
                  "0.0.0.0:1024 > 0.0.0.0:1026", "named 0.0.0.0:1024 > 0.0.0.0:1026",
                  "10.0.0.1:1024 > 10.0.0.2:1026", "named 10.0.0.1:1024 > 10.0.0.2:1026",
                  "named [2001:db8:1::1]:1024 > [2001:db8:1::2]:1025",
                  "named 10.0.0.1:0 > 10.0.0.2:0", "named [2001:db8:1::1]:0 > [2001:db8:1::2]:0"));
}

TEST(AddressesToTell, AtTheSecondRestart_SocketsHaveTheNamesOfTheFirstNode) {
  // Started on 10.0.0.1, restarted on 10.0.0.9 with one port changed, now on node B.
  AddressesThen then;
  then.known = {at("10.0.0.1")};
  then.node = {at("10.0.0.9")};
  then.translations = map_of({{at("10.0.0.1", 80), at("10.0.0.9", 81)},
                              {at("0.0.0.0", 90), at("0.0.0.0", 91)},
                              {at("10.0.0.1"), at("10.0.0.9"), 0},
                              {at("10.0.0.7"), at("10.0.0.9"), 0}});
  const image::AddressMap own = map_of({{at("10.0.0.9", 81), at("10.0.0.2", 82)},
                                        {at("10.0.0.9", 5000), at("10.0.0.2", 5000)},
                                        {at("0.0.0.0", 91), at("0.0.0.0", 92)}});
  EXPECT_THAT(
      text_of(addresses_to_tell(own, then, on_b)),
      UnorderedElementsAre("10.0.0.9:81 > 10.0.0.2:82", "named 10.0.0.1:80 > 10.0.0.2:82",
                           "10.0.0.9:5000 > 10.0.0.2:5000", "named 10.0.0.1:5000 > 10.0.0.2:5000",
                           "0.0.0.0:91 > 0.0.0.0:92", "named 0.0.0.0:90 > 0.0.0.0:92",
                           "10.0.0.9:91 > 10.0.0.2:92", "named 10.0.0.1:90 > 10.0.0.2:92",
                           "named 10.0.0.1:0 > 10.0.0.2:0"));
}

TEST(WireAddresses, OthersLoopbackAndWildcards_AreNotOurs) {
  const image::AddressMap own = map_of({{at("127.0.0.1", 700), at("127.0.0.1", 701)}});
  const image::AddressMap all = map_of({{at("127.0.0.1", 700), at("127.0.0.1", 700)},
                                        {at("127.0.0.1", 800), at("127.0.0.1", 801)},
                                        {at("0.0.0.0", 900), at("0.0.0.0", 901)},
                                        {at("10.0.0.1", 900), at("10.0.0.2", 901)},
                                        {at("10.0.0.1"), at("10.0.0.2"), kNamed}});
  EXPECT_THAT(text_of(wire_addresses(own, all)),
              ElementsAre("127.0.0.1:700 > 127.0.0.1:701", "10.0.0.1:900 > 10.0.0.2:901"));
}

constexpr uint32_t kNamedTcp = IPPROTO_TCP | kNamed;

TEST(Translations, AreNone_WhereEverythingIsWhereItWas) {
  const image::AddressMap all = map_of({{at("10.0.0.1", 80), at("10.0.0.1", 80), kNamedTcp},
                                        {at("0.0.0.0", 80), at("0.0.0.0", 80), kNamedTcp},
                                        {at("10.0.0.1"), at("10.0.0.1"), kNamed},
                                        {at("10.0.0.5"), at("10.0.0.5"), kNamed}});
  EXPECT_THAT(text_of(translations(all, all)), IsEmpty());
}

TEST(Translations, NameWhatMoved) {
  const image::AddressMap all = map_of({{at("10.0.0.1", 80), at("10.0.0.2", 81), kNamedTcp},
                                        {at("10.0.0.1", 80), at("10.0.0.2", 81)},
                                        {at("10.0.0.1"), at("10.0.0.2"), kNamed},
                                        {at("10.0.0.5"), at("10.0.0.5"), kNamed}});
  EXPECT_THAT(text_of(translations({}, all)),
              ElementsAre("10.0.0.1:80 > 10.0.0.2:81", "* 10.0.0.1:0 > 10.0.0.2:0"));
}

TEST(Translations, TheOwnHostWins_WherePodsOfOneNodeWentApart) {
  const image::AddressMap own = map_of({{at("10.0.0.1"), at("10.0.0.4"), kNamed}});
  const image::AddressMap all = map_of({{at("10.0.0.1"), at("10.0.0.3"), kNamed},
                                        {at("10.0.0.1", 80), at("10.0.0.3", 80), kNamedTcp}});
  EXPECT_THAT(text_of(translations(own, all)),
              ElementsAre("* 10.0.0.1:0 > 10.0.0.4:0", "10.0.0.1:80 > 10.0.0.3:80"));
}

TEST(Translations, NameWhatStayed_WhereAnotherHostCameToIt) {
  const image::AddressMap all = map_of({{at("10.0.0.1"), at("10.0.0.1"), kNamed},
                                        {at("10.0.0.2"), at("10.0.0.1"), kNamed},
                                        {at("10.0.0.1", 80), at("10.0.0.1", 80), kNamedTcp},
                                        {at("10.0.0.3"), at("10.0.0.3"), kNamed}});
  EXPECT_THAT(text_of(translations({}, all)),
              ElementsAre("* 10.0.0.1:0 > 10.0.0.1:0", "* 10.0.0.2:0 > 10.0.0.1:0",
                          "10.0.0.1:80 > 10.0.0.1:80"));
}

TEST(Addresses, WhatIsNone_IsPassedOver_AndDamagedInAnImage) {
  image::AddressMap damaged;
  damaged.add_entries()->set_from("xyz");
  damaged.add_entries();
  EXPECT_THAT(text_of(translations(damaged, damaged)), IsEmpty());
  EXPECT_THAT(text_of(wire_addresses(damaged, damaged)), IsEmpty());
  EXPECT_THAT(text_of(addresses_to_tell(damaged, then_on_a(), on_b)),
              ElementsAre("named 10.0.0.1:0 > 10.0.0.2:0"));
  image::PodState state;
  state.add_node_addresses("xyz");
  EXPECT_EQ(addresses_then(state).error().code(), Code::kDamaged);
}

}  // namespace
}  // namespace fermata::node_agent
