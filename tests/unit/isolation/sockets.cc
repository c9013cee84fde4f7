#include "tests/unit/isolation/sockets.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <array>
#include <cstring>

namespace fermata::isolation {

uint16_t Address::port() const {
  // Both families have it at the same place.
  return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

Address Address::with_port(uint16_t port) const {
  Address result = *this;
  reinterpret_cast<sockaddr_in*>(&result.storage)->sin_port = htons(port);
  return result;
}

std::string Address::text() const {
  std::array<char, INET6_ADDRSTRLEN> words{};
  if (family() == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr, words.data(),
              words.size());
    return std::string(words.data()) + ":" + std::to_string(port());
  }
  if (family() != AF_INET6) return "none";
  inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_addr, words.data(),
            words.size());
  return "[" + std::string(words.data()) + "]:" + std::to_string(port());
}

Address address(std::string_view text, uint16_t port) {
  const std::string words(text);
  Address result;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&result.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&result.storage);
  if (inet_pton(AF_INET, words.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    result.length = sizeof(sockaddr_in);
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, words.c_str(), &v6->sin6_addr), 1) << text;
    v6->sin6_family = AF_INET6;
    result.length = sizeof(sockaddr_in6);
  }
  return result.with_port(port);
}

Address local_of(const UniqueFd& socket) {
  Address result;
  result.length = sizeof(result.storage);
  EXPECT_EQ(getsockname(socket.get(), result.get(), &result.length), 0) << strerror(errno);
  return result;
}

Address peer_of(const UniqueFd& socket) {
  Address result;
  result.length = sizeof(result.storage);
  EXPECT_EQ(getpeername(socket.get(), result.get(), &result.length), 0) << strerror(errno);
  return result;
}

UniqueFd make_socket(int family, int type) {
  UniqueFd fd(socket(family, type | SOCK_CLOEXEC, 0));
  EXPECT_TRUE(fd.valid()) << strerror(errno);
  return fd;
}

UniqueFd bound_socket(const Address& address, int type) {
  UniqueFd fd = make_socket(address.family(), type);
  EXPECT_EQ(bind(fd.get(), address.get(), address.length), 0)
      << "bind " << address << ": " << strerror(errno);
  if (type == SOCK_STREAM) {
    EXPECT_EQ(listen(fd.get(), 16), 0) << strerror(errno);
  }
  return fd;
}

UniqueFd connected_socket(const Address& to, int type) {
  UniqueFd fd = make_socket(to.family(), type);
  EXPECT_EQ(connect(fd.get(), to.get(), to.length), 0)
      << "connect " << to << ": " << strerror(errno);
  return fd;
}

Pair make_pair(const Address& at, int type) {
  UniqueFd first = bound_socket(at.with_port(0), type);
  Pair pair;
  pair.near = connected_socket(local_of(first), type);
  if (type == SOCK_STREAM) {
    pair.far.reset(accept4(first.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(pair.far.valid()) << strerror(errno);
    const int one = 1;
    setsockopt(pair.near.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(pair.far.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  } else {
    const Address near = local_of(pair.near);
    EXPECT_EQ(connect(first.get(), near.get(), near.length), 0) << strerror(errno);
    pair.far = std::move(first);
  }
  return pair;
}

bool send_bytes(const UniqueFd& socket, std::string_view bytes) {
  return send(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

std::string receive(const UniqueFd& socket, int milliseconds) {
  pollfd readable{socket.get(), POLLIN, 0};
  if (poll(&readable, 1, milliseconds) != 1) return {};
  std::string bytes(65536, '\0');
  const ssize_t length = recv(socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  bytes.resize(length > 0 ? static_cast<size_t>(length) : 0);
  return bytes;
}

bool passes(const UniqueFd& from, const UniqueFd& to, int milliseconds) {
  return send_bytes(from, "x") && !receive(to, milliseconds).empty();
}

}  // namespace fermata::isolation
