#include "node-agent/engine/socket_options.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "common/unique_fd.h"

namespace fermata::engine {
namespace {

constexpr int kSoBufLock = 72;                 // SO_BUF_LOCK, Linux 5.14
constexpr uint32_t kLargestBuffer = 1U << 28;  // what an image can ask for
constexpr int kAnyFamily = 0;

enum class When { kEarly, kLate, kBoth };

struct Row {
  int level;
  int name;
  int family;    // kAnyFamily, AF_INET, AF_INET6, AF_UNIX
  int protocol;  // 0: any
  When when;
};

// SO_REUSEADDR is early because bind(2) looks at it, and set again at the end because leaving
// repair mode clears it; TCP_CORK and SO_PEEK_OFF must not be in force while queues are filled.
constexpr std::array kTable{
    Row{SOL_SOCKET, SO_REUSEADDR, kAnyFamily, 0, When::kBoth},
    Row{SOL_SOCKET, SO_REUSEPORT, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_BINDTODEVICE, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_KEEPALIVE, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_BROADCAST, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_DONTROUTE, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_OOBINLINE, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_PRIORITY, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_ZEROCOPY, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_LINGER, kAnyFamily, 0, When::kLate},
    Row{SOL_SOCKET, SO_RCVLOWAT, kAnyFamily, 0, When::kLate},
    Row{SOL_SOCKET, SO_RCVTIMEO, kAnyFamily, 0, When::kLate},
    Row{SOL_SOCKET, SO_SNDTIMEO, kAnyFamily, 0, When::kLate},
    Row{SOL_SOCKET, SO_TIMESTAMP, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_TIMESTAMPNS, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_RXQ_OVFL, kAnyFamily, 0, When::kEarly},
    Row{SOL_SOCKET, SO_PASSCRED, AF_UNIX, 0, When::kEarly},
    Row{SOL_SOCKET, SO_PEEK_OFF, AF_UNIX, 0, When::kLate},
    Row{SOL_SOCKET, SO_PEEK_OFF, kAnyFamily, IPPROTO_UDP, When::kLate},
    Row{IPPROTO_IP, IP_TOS, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_TTL, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_MTU_DISCOVER, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_RECVERR, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_PKTINFO, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_RECVTTL, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_RECVTOS, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_FREEBIND, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, AF_INET, 0, When::kEarly},
    Row{IPPROTO_IP, IP_MULTICAST_TTL, AF_INET, IPPROTO_UDP, When::kEarly},
    Row{IPPROTO_IP, IP_MULTICAST_LOOP, AF_INET, IPPROTO_UDP, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_V6ONLY, AF_INET6, 0, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_UNICAST_HOPS, AF_INET6, 0, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_TCLASS, AF_INET6, 0, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_MTU_DISCOVER, AF_INET6, 0, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_RECVERR, AF_INET6, 0, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_RECVPKTINFO, AF_INET6, 0, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_RECVHOPLIMIT, AF_INET6, 0, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_RECVTCLASS, AF_INET6, 0, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_MULTICAST_HOPS, AF_INET6, IPPROTO_UDP, When::kEarly},
    Row{IPPROTO_IPV6, IPV6_MULTICAST_LOOP, AF_INET6, IPPROTO_UDP, When::kEarly},
    Row{IPPROTO_TCP, TCP_NODELAY, kAnyFamily, IPPROTO_TCP, When::kEarly},
    Row{IPPROTO_TCP, TCP_CORK, kAnyFamily, IPPROTO_TCP, When::kLate},
    Row{IPPROTO_TCP, TCP_KEEPIDLE, kAnyFamily, IPPROTO_TCP, When::kEarly},
    Row{IPPROTO_TCP, TCP_KEEPINTVL, kAnyFamily, IPPROTO_TCP, When::kEarly},
    Row{IPPROTO_TCP, TCP_KEEPCNT, kAnyFamily, IPPROTO_TCP, When::kEarly},
    Row{IPPROTO_TCP, TCP_SYNCNT, kAnyFamily, IPPROTO_TCP, When::kEarly},
    Row{IPPROTO_TCP, TCP_LINGER2, kAnyFamily, IPPROTO_TCP, When::kEarly},
    Row{IPPROTO_TCP, TCP_DEFER_ACCEPT, kAnyFamily, IPPROTO_TCP, When::kEarly},
    Row{IPPROTO_TCP, TCP_USER_TIMEOUT, kAnyFamily, IPPROTO_TCP, When::kLate},
    Row{IPPROTO_TCP, TCP_NOTSENT_LOWAT, kAnyFamily, IPPROTO_TCP, When::kLate},
    Row{IPPROTO_TCP, TCP_CONGESTION, kAnyFamily, IPPROTO_TCP, When::kEarly},
    Row{IPPROTO_UDP, 1 /* UDP_CORK */, kAnyFamily, IPPROTO_UDP, When::kLate},
};

struct SocketKind {
  int family = 0;
  int type = 0;
  int protocol = 0;
};

int int_option(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, level, name, &value, &size) == 0 ? value : -1;
}

SocketKind kind_of(int fd) {
  return {int_option(fd, SOL_SOCKET, SO_DOMAIN), int_option(fd, SOL_SOCKET, SO_TYPE),
          int_option(fd, SOL_SOCKET, SO_PROTOCOL)};
}

bool applies(const Row& row, const SocketKind& kind) {
  return (row.family == kAnyFamily || row.family == kind.family) &&
         (row.protocol == 0 || row.protocol == kind.protocol);
}

// An option's value; empty when the socket has none of this name.
std::string read_option(int fd, const Row& row) {
  std::array<char, 256> value{};
  socklen_t size = value.size();
  if (::getsockopt(fd, row.level, row.name, value.data(), &size) != 0) return {};
  return {value.data(), size};
}

Status set_option(int fd, const image::SocketOption& option) {
  const auto size = static_cast<socklen_t>(option.value().size());
  if (::setsockopt(fd, option.level(), option.name(), option.value().data(), size) == 0) {
    return Status::ok();
  }
  return errno_status(errno, fmt::format("socket option {}/{}", option.level(), option.name()));
}

Status set_buffer(int fd, int name, uint32_t size) {
  // The kernel doubles what it is given (socket(7)).
  const int half = static_cast<int>(std::min(size, kLargestBuffer) / 2);
  if (::setsockopt(fd, SOL_SOCKET, name, &half, sizeof half) == 0) return Status::ok();
  return errno_status(errno, fmt::format("a socket buffer of {} bytes", size));
}

Status grow_buffer(int fd, int get_name, int force_name, size_t wanted) {
  const auto now = static_cast<uint32_t>(int_option(fd, SOL_SOCKET, get_name));
  if (now >= wanted) return Status::ok();
  return set_buffer(fd, force_name,
                    static_cast<uint32_t>(std::min<size_t>(wanted, kLargestBuffer)));
}

Status apply(int fd, const image::SocketOptions& options, When now) {
  const SocketKind kind = kind_of(fd);
  for (const image::SocketOption& option : options.options()) {
    const auto row = std::find_if(kTable.begin(), kTable.end(), [&](const Row& one) {
      return one.level == option.level() && one.name == option.name() && applies(one, kind);
    });
    if (row == kTable.end()) {
      return {Code::kDamaged, fmt::format("socket option {}/{} is not one that is kept",
                                          option.level(), option.name())};
    }
    if (row->when == When::kBoth || row->when == now) FERMATA_TRY(set_option(fd, option));
  }
  return Status::ok();
}

}  // namespace

Status capture_options(int fd, image::SocketOptions& out) {
  const SocketKind kind = kind_of(fd);
  const UniqueFd fresh(::socket(kind.family, kind.type | SOCK_CLOEXEC, kind.protocol));
  if (!fresh) return errno_status(errno, "a socket to compare options with");
  for (const Row& row : kTable) {
    if (!applies(row, kind)) continue;
    const std::string value = read_option(fd, row);
    if (value.empty() || value == read_option(fresh.get(), row)) continue;
    image::SocketOption& option = *out.add_options();
    option.set_level(row.level);
    option.set_name(row.name);
    option.set_value(value);
  }
  out.set_send_buffer(static_cast<uint32_t>(int_option(fd, SOL_SOCKET, SO_SNDBUF)));
  out.set_receive_buffer(static_cast<uint32_t>(int_option(fd, SOL_SOCKET, SO_RCVBUF)));
  const int lock = int_option(fd, SOL_SOCKET, kSoBufLock);
  if (lock < 0) return {Code::kUnsupported, "this kernel has no SO_BUF_LOCK (Linux 5.14)"};
  out.set_buffer_lock(static_cast<uint32_t>(lock));
  return Status::ok();
}

Status apply_options_early(int fd, const image::SocketOptions& options) {
  FERMATA_TRY(grow_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE, options.send_buffer()));
  FERMATA_TRY(grow_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE, options.receive_buffer()));
  return apply(fd, options, When::kEarly);
}

Status apply_options_late(int fd, const image::SocketOptions& options) {
  FERMATA_TRY(apply(fd, options, When::kLate));
  FERMATA_TRY(set_buffer(fd, SO_SNDBUFFORCE, options.send_buffer()));
  FERMATA_TRY(set_buffer(fd, SO_RCVBUFFORCE, options.receive_buffer()));
  // Setting a size forbids the kernel to adapt it; give that back where the program had it.
  const auto lock = static_cast<int>(options.buffer_lock() & 3U);
  if (::setsockopt(fd, SOL_SOCKET, kSoBufLock, &lock, sizeof lock) != 0) {
    return errno_status(errno, "SO_BUF_LOCK");
  }
  return Status::ok();
}

Status make_room(int fd, size_t send, size_t receive) {
  // Twice, as the kernel charges its own structures too, and something to spare for short messages.
  constexpr size_t kSpare = 1 << 20;
  const auto bytes = [&](int name) {
    return static_cast<size_t>(std::max(0, int_option(fd, SOL_SOCKET, name)));
  };
  if (send > 0) {
    FERMATA_TRY(grow_buffer(fd, SO_SNDBUF, SO_SNDBUFFORCE, bytes(SO_SNDBUF) + 4 * send + kSpare));
  }
  if (receive > 0) {
    FERMATA_TRY(
        grow_buffer(fd, SO_RCVBUF, SO_RCVBUFFORCE, bytes(SO_RCVBUF) + 4 * receive + kSpare));
  }
  return Status::ok();
}

}  // namespace fermata::engine
