// Socket addresses as messages and images carry them: the bytes of a sockaddr_in or sockaddr_in6,
// from others, so that every length is checked. Pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fermata {

struct Endpoint {
  std::array<unsigned char, 16> ip{};  ///< IPv4 as IPv4-in-IPv6: one socket may see either
  uint16_t port = 0;

  /// Its bytes, to compare by.
  std::string key() const;
  /// Loopback or wildcard: it means something else on each node.
  bool is_of_its_node_only() const;
};

/// Nothing: of another family, or not as long as one of that family is.
std::optional<Endpoint> endpoint_of(std::string_view sockaddr);
/// The IP address alone. Empty: of another family.
std::string ip_of(std::string_view sockaddr);
/// For people: "10.0.0.1:80", "[fe80::1]:80".
std::string display_address(std::string_view sockaddr);

}  // namespace fermata
