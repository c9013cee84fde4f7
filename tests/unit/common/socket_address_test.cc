#include "common/socket_address.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

namespace fermata {
namespace {

template <typename Address>
std::string bytes_of(const Address& address) {
  return {reinterpret_cast<const char*>(&address), sizeof address};
}

std::string v4(const char* ip, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, ip, &address.sin_addr);
  return bytes_of(address);
}

std::string v6(const char* ip, uint16_t port) {
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(port);
  inet_pton(AF_INET6, ip, &address.sin6_addr);
  return bytes_of(address);
}

TEST(SocketAddress, IsReadAndDisplayed) {
  EXPECT_EQ(display_address(v4("10.0.0.1", 80)), "10.0.0.1:80");
  EXPECT_EQ(display_address(v6("fd77::1", 443)), "[fd77::1]:443");
  EXPECT_EQ(display_address(v6("::ffff:10.0.0.1", 80)), "10.0.0.1:80");
}

TEST(SocketAddress, OfIPv4_IsTheSame_WhicheverSocketSeesIt) {
  const auto plain = endpoint_of(v4("10.0.0.1", 80));
  const auto mapped = endpoint_of(v6("::ffff:10.0.0.1", 80));
  ASSERT_TRUE(plain && mapped);
  EXPECT_EQ(plain->key(), mapped->key());
  EXPECT_NE(plain->key(), endpoint_of(v4("10.0.0.1", 81))->key());
}

TEST(SocketAddress, OfWrongLengthOrFamily_IsNone) {
  for (const std::string& good : {v4("10.0.0.1", 80), v6("fd77::1", 80)}) {
    ASSERT_TRUE(endpoint_of(good));
    for (size_t size = 0; size < good.size(); ++size) {
      EXPECT_FALSE(endpoint_of(good.substr(0, size))) << size;
    }
    EXPECT_FALSE(endpoint_of(good + '\0'));
  }
  std::string local = v4("10.0.0.1", 80);
  local[0] = AF_UNIX;
  EXPECT_FALSE(endpoint_of(local));
  EXPECT_EQ(display_address(local), "an address of an unknown family");
  EXPECT_EQ(ip_of(local), "");
}

TEST(SocketAddress, LoopbackAndWildcard_AreOfTheirNodeOnly) {
  for (const std::string& address :
       {v4("127.0.0.5", 1), v4("0.0.0.0", 1), v6("::1", 1), v6("::", 1)}) {
    EXPECT_TRUE(endpoint_of(address)->is_of_its_node_only()) << display_address(address);
  }
  for (const std::string& address : {v4("10.0.0.1", 1), v6("fd77::1", 1), v6("::2", 1)}) {
    EXPECT_FALSE(endpoint_of(address)->is_of_its_node_only()) << display_address(address);
  }
}

}  // namespace
}  // namespace fermata
