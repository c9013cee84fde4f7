// Sockets of the tests. Plain calls; failures are the test's.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>

#include "common/unique_fd.h"

namespace fermata::isolation {

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  uint16_t port() const;
  Address with_port(uint16_t port) const;
  std::string bytes() const { return {reinterpret_cast<const char*>(&storage), length}; }
  /// "127.0.0.1:7000", "[::1]:7000".
  std::string text() const;

  friend bool operator==(const Address& a, const Address& b) { return a.text() == b.text(); }
  friend std::ostream& operator<<(std::ostream& out, const Address& a) { return out << a.text(); }
};

/// "127.0.0.1", "::1", "::ffff:127.0.0.1".
Address address(std::string_view text, uint16_t port = 0);

Address local_of(const UniqueFd& socket);
Address peer_of(const UniqueFd& socket);

/// A new socket of the family, SOCK_STREAM or SOCK_DGRAM.
UniqueFd make_socket(int family, int type);
/// Bound, and listening where it is a stream.
UniqueFd bound_socket(const Address& address, int type);
UniqueFd connected_socket(const Address& to, int type);

struct Pair {
  UniqueFd near;
  UniqueFd far;
};

/// Two sockets connected with each other at this address (its port is not looked at).
Pair make_pair(const Address& at, int type);

/// Sends without waiting; whether the call took it all.
bool send_bytes(const UniqueFd& socket, std::string_view bytes);
/// What comes within the time (milliseconds), empty: nothing.
std::string receive(const UniqueFd& socket, int milliseconds);
/// Sends one byte and says whether it came.
bool passes(const UniqueFd& from, const UniqueFd& to, int milliseconds);

}  // namespace fermata::isolation
