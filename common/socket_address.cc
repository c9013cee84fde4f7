#include "common/socket_address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

namespace fermata {

std::optional<Endpoint> endpoint_of(std::string_view bytes) {
  // Copied out: the bytes need not be aligned.
  sa_family_t family = 0;
  if (bytes.size() < sizeof family) return std::nullopt;
  std::memcpy(&family, bytes.data(), sizeof family);
  Endpoint endpoint;
  if (family == AF_INET && bytes.size() == sizeof(sockaddr_in)) {
    sockaddr_in address{};
    std::memcpy(&address, bytes.data(), sizeof address);
    endpoint.ip[10] = endpoint.ip[11] = 0xff;
    std::memcpy(&endpoint.ip[12], &address.sin_addr, sizeof address.sin_addr);
    endpoint.port = ntohs(address.sin_port);
    return endpoint;
  }
  if (family == AF_INET6 && bytes.size() == sizeof(sockaddr_in6)) {
    sockaddr_in6 address{};
    std::memcpy(&address, bytes.data(), sizeof address);
    std::memcpy(endpoint.ip.data(), &address.sin6_addr, endpoint.ip.size());
    endpoint.port = ntohs(address.sin6_port);
    return endpoint;
  }
  return std::nullopt;
}

std::string Endpoint::key() const {
  std::string key(reinterpret_cast<const char*>(ip.data()), ip.size());
  key += static_cast<char>(port >> 8);
  key += static_cast<char>(port & 0xff);
  return key;
}

bool Endpoint::is_of_its_node_only() const {
  in6_addr address{};
  std::memcpy(&address, ip.data(), ip.size());
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    return ip[12] == 127 ||
           std::all_of(ip.begin() + 12, ip.end(), [](auto byte) { return byte == 0; });
  }
  return IN6_IS_ADDR_UNSPECIFIED(&address) || IN6_IS_ADDR_LOOPBACK(&address);
}

std::string ip_of(std::string_view sockaddr) {
  const std::optional<Endpoint> endpoint = endpoint_of(sockaddr);
  if (!endpoint) return {};
  return {reinterpret_cast<const char*>(endpoint->ip.data()), endpoint->ip.size()};
}

std::string display_address(std::string_view sockaddr) {
  const std::optional<Endpoint> endpoint = endpoint_of(sockaddr);
  if (!endpoint) return "an address of an unknown family";
  std::array<char, INET6_ADDRSTRLEN> text{};
  in6_addr address{};
  std::memcpy(&address, endpoint->ip.data(), endpoint->ip.size());
  if (IN6_IS_ADDR_V4MAPPED(&address)) {
    inet_ntop(AF_INET, &endpoint->ip[12], text.data(), text.size());
    return fmt::format("{}:{}", text.data(), endpoint->port);
  }
  inet_ntop(AF_INET6, &address, text.data(), text.size());
  return fmt::format("[{}]:{}", text.data(), endpoint->port);
}

}  // namespace fermata
