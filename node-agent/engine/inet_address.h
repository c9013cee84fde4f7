// An IPv4 or IPv6 address and port, as socket calls take it. Plain value; any thread.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace fermata::engine {

class InetAddress {
 public:
  InetAddress() = default;
  InetAddress(const void* address, int family, uint16_t port);

  /// From the bytes of a sockaddr in an image; kDamaged when they are none.
  static Result<InetAddress> parse(std::string_view bytes);
  /// getsockname(2) and getpeername(2); an errno of ENOTCONN gives an empty address.
  static Result<InetAddress> local_of(int fd);
  static Result<InetAddress> remote_of(int fd);

  bool empty() const { return length_ == 0; }
  int family() const { return storage_.ss_family; }
  uint16_t port() const;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t length() const { return length_; }
  std::string bytes() const;
  /// "127.0.0.1:7000", "[::1]:7000".
  std::string text() const;

  InetAddress with_port(uint16_t port) const;
  /// An IPv4-mapped IPv6 address as the IPv4 one.
  InetAddress unmapped() const;
  /// The same for a socket of `family`: an IPv4 address mapped where that is AF_INET6.
  InetAddress for_family(int family) const;

  /// Family, address, port; an IPv4-mapped IPv6 address is the IPv4 one. For maps and comparison.
  std::string key() const;
  bool is_wildcard() const;
  bool is_loopback() const;
  /// Whether it is an address of this host, loopback included.
  bool is_local() const;

 private:
  sockaddr_storage storage_{};
  socklen_t length_ = 0;
};

}  // namespace fermata::engine
