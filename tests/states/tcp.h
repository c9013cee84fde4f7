// A pair of connected TCP sockets on the loopback interface, for the TCP states.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/states/state.h"

namespace state {

struct Address {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

/// A listening socket on a free port of 127.0.0.1 or ::1.
inline int listen_on_loopback(int family, Address& address) {
  const int fd = must(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  if (family == AF_INET) {
    auto* in = reinterpret_cast<sockaddr_in*>(&address.storage);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.size = sizeof(sockaddr_in);
  } else {
    auto* in = reinterpret_cast<sockaddr_in6*>(&address.storage);
    in->sin6_family = AF_INET6;
    in->sin6_addr = in6addr_loopback;
    address.size = sizeof(sockaddr_in6);
  }
  must(bind(fd, address.get(), address.size), "bind");
  must(listen(fd, 16), "listen");
  must(getsockname(fd, address.get(), &address.size), "getsockname");
  return fd;
}

inline int connect_to(Address& address) {
  const int fd = must(socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  must(connect(fd, address.get(), address.size), "connect");
  return fd;
}

struct TcpPair {
  int client = -1;
  int server = -1;
};

inline TcpPair tcp_pair(int family) {
  Address address;
  const int listener = listen_on_loopback(family, address);
  TcpPair pair;
  pair.client = connect_to(address);
  pair.server = must(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC), "accept");
  close(listener);
  return pair;
}

/// Sends until nothing more is taken; returns how many bytes of pattern(i, seed) went out.
inline size_t send_until_full(int fd, unsigned seed) {
  uint8_t block[8192];
  for (size_t sent = 0;;) {
    for (size_t i = 0; i < sizeof block; i++) block[i] = pattern(sent + i, seed);
    const ssize_t wrote = send(fd, block, sizeof block, MSG_DONTWAIT);
    if (wrote <= 0) return sent;
    sent += static_cast<size_t>(wrote);
  }
}

inline void send_all(int fd, const void* data, size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const auto wrote = static_cast<size_t>(must(send(fd, bytes, size, MSG_NOSIGNAL), "send"));
    bytes += wrote;
    size -= wrote;
  }
}

/// Receives exactly `size` bytes of pattern(i, seed).
inline void receive_pattern(int fd, size_t size, unsigned seed) {
  uint8_t block[16384];
  for (size_t at = 0; at < size;) {
    const size_t wanted = size - at < sizeof block ? size - at : sizeof block;
    const auto got = static_cast<size_t>(must(recv(fd, block, wanted, 0), "recv"));
    CHECK(got > 0, "end-of-file after %zu of %zu bytes", at, size);
    for (size_t i = 0; i < got; i++) {
      CHECK(block[i] == pattern(at + i, seed), "byte %zu of %zu is not what was sent", at + i,
            size);
    }
    at += got;
  }
}

}  // namespace state
