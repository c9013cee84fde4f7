// What an image may not say of sockets: each case is a sound connection with one thing changed.
#include "node-agent/engine/validate_sockets.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include "node-agent/engine/inet_address.h"

namespace fermata::engine {
namespace {

std::string address(const char* text, uint16_t port) {
  in_addr v4{};
  ::inet_pton(AF_INET, text, &v4);
  return InetAddress(&v4, AF_INET, port).bytes();
}

image::PodObjects sound_connection() {
  image::PodObjects objects;
  image::TcpSocket& tcp = *objects.add_files()->mutable_tcp();
  tcp.set_state(image::TcpSocket::CONNECTED);
  tcp.set_local(address("10.0.0.1", 7000));
  tcp.set_remote(address("10.0.0.2", 40000));
  tcp.set_to_send("0123456789");
  image::TcpWire& wire = *tcp.mutable_wire();
  wire.set_sent(10);
  wire.set_segment(1460);
  wire.set_send_scale(14);
  wire.set_receive_scale(7);
  wire.set_send_window(1 << 30);
  wire.set_largest_window(1 << 30);
  wire.set_receive_window(65536);
  return objects;
}

TEST(ValidateSockets, SoundConnection_IsAccepted) {
  const Status status = validate_sockets(sound_connection());
  EXPECT_TRUE(status) << status.message();
}

struct Change {
  const char* name;
  void (*make)(image::TcpSocket& tcp);
};

const Change kChanges[] = {
    {"ShortAddress", [](image::TcpSocket& tcp) { tcp.set_local("abc"); }},
    {"NoLocal", [](image::TcpSocket& tcp) { tcp.clear_local(); }},
    {"NoRemote", [](image::TcpSocket& tcp) { tcp.clear_remote(); }},
    {"WildcardRemote", [](image::TcpSocket& tcp) { tcp.set_remote(address("0.0.0.0", 1)); }},
    {"PortZero", [](image::TcpSocket& tcp) { tcp.set_local(address("10.0.0.1", 0)); }},
    {"OtherFamily", [](image::TcpSocket& tcp) { tcp.set_ipv6(true); }},
    {"UnknownState",
     [](image::TcpSocket& tcp) { tcp.set_state(static_cast<image::TcpSocket::State>(99)); }},
    {"WireOfAListener", [](image::TcpSocket& tcp) { tcp.set_state(image::TcpSocket::LISTENING); }},
    {"WireOfAConnecting",
     [](image::TcpSocket& tcp) { tcp.set_state(image::TcpSocket::CONNECTING); }},
    {"WireInsideThePod", [](image::TcpSocket& tcp) { tcp.set_peer_file(2); }},
    {"WireToAClosedEnd", [](image::TcpSocket& tcp) { tcp.set_peer_closed(true); }},
    {"MoreSentThanWritten", [](image::TcpSocket& tcp) { tcp.mutable_wire()->set_sent(11); }},
    {"NoSegment", [](image::TcpSocket& tcp) { tcp.mutable_wire()->set_segment(0); }},
    {"HugeSegment", [](image::TcpSocket& tcp) { tcp.mutable_wire()->set_segment(65536); }},
    {"HugeScale", [](image::TcpSocket& tcp) { tcp.mutable_wire()->set_send_scale(15); }},
    {"HugeOwnScale", [](image::TcpSocket& tcp) { tcp.mutable_wire()->set_receive_scale(15); }},
    {"HugeWindow",
     [](image::TcpSocket& tcp) { tcp.mutable_wire()->set_receive_window(0xffffffff); }},
    {"ConnectingToNobody",
     [](image::TcpSocket& tcp) {
       tcp.clear_wire();
       tcp.set_state(image::TcpSocket::CONNECTING);
       tcp.clear_remote();
     }},
};

class ValidateSocketsChange : public ::testing::TestWithParam<Change> {};

TEST_P(ValidateSocketsChange, IsRefused) {
  image::PodObjects objects = sound_connection();
  GetParam().make(*objects.mutable_files(0)->mutable_tcp());
  EXPECT_EQ(validate_sockets(objects).code(), Code::kDamaged);
}

INSTANTIATE_TEST_SUITE_P(All, ValidateSocketsChange, ::testing::ValuesIn(kChanges),
                         [](const auto& one) { return one.param.name; });

TEST(ValidateSockets, UdpAddressOfAnotherFamily_IsRefused) {
  image::PodObjects objects;
  objects.add_files()->mutable_udp()->set_local(address("10.0.0.1", 7000));
  EXPECT_TRUE(validate_sockets(objects));
  objects.mutable_files(0)->mutable_udp()->set_ipv6(true);
  EXPECT_EQ(validate_sockets(objects).code(), Code::kDamaged);
}

}  // namespace
}  // namespace fermata::engine
