#include "node-agent/engine/network_map.h"

#include <fmt/format.h>

#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/tcp_ports.h"
#include "node-agent/engine/tcp_repair.h"

namespace fermata::engine {
namespace {

/// Without SO_REUSEADDR and SO_REUSEPORT, with which two sockets could have one port.
class Unshared {
 public:
  explicit Unshared(int fd)
      : fd_(fd),
        address_(socket_option(fd, SOL_SOCKET, SO_REUSEADDR)),
        port_(socket_option(fd, SOL_SOCKET, SO_REUSEPORT)) {
    set(0, 0);
  }
  ~Unshared() { set(address_, port_); }
  Unshared(const Unshared&) = delete;
  Unshared& operator=(const Unshared&) = delete;

 private:
  void set(int address, int port) const {
    ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &address, sizeof address);
    ::setsockopt(fd_, SOL_SOCKET, SO_REUSEPORT, &port, sizeof port);
  }
  int fd_;
  int address_;
  int port_;
};

Status bind_status(int error, int protocol, const InetAddress& address) {
  const char* name = protocol == IPPROTO_TCP ? "TCP" : "UDP";
  if (error == EADDRNOTAVAIL) {
    return {Code::kConflict,
            fmt::format("this node does not have the {} address {}", name, address.text()), error};
  }
  return errno_status(error, fmt::format("bind to {} address {}", name, address.text()));
}

InetAddress all_of_ipv4(uint16_t port) {
  const in_addr any{};
  return {&any, AF_INET, port};
}

/// Bound to [::], and reached by IPv4 as well (ipv6(7), IPV6_V6ONLY).
bool is_of_both_families(int fd, const InetAddress& now) {
  return now.family() == AF_INET6 && now.is_wildcard() &&
         socket_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
}

Status bind_plainly(int fd, int protocol, const InetAddress& address) {
  if (::bind(fd, address.get(), address.length()) == 0) return Status::ok();
  return bind_status(errno, protocol, address);
}

}  // namespace

Result<InetAddress> NetworkMap::address_here(const InetAddress& then) const {
  if (then.empty() || !request_.address_here) return then;
  FERMATA_ASSIGN(const InetAddress here, request_.address_here(then.unmapped()));
  return here.unmapped().with_port(then.port()).for_family(then.family());
}

Status NetworkMap::bind_first(int fd, int protocol, const InetAddress& wanted) const {
  const Unshared unshared(fd);
  const auto attempt = [&] { return bind_plainly(fd, protocol, wanted); };
  Status status = protocol == IPPROTO_TCP ? unless_taken(wanted, attempt) : attempt();
  if (status.error_number() != EADDRINUSE) return status;
  return bind_plainly(fd, protocol, wanted.with_port(0));
}

Status NetworkMap::note(int fd, int protocol, const InetAddress& then) {
  FERMATA_ASSIGN_STATUS(const InetAddress now, InetAddress::local_of(fd));
  tell(protocol, then, now);
  if (is_of_both_families(fd, now)) {
    tell(protocol, all_of_ipv4(then.port()), all_of_ipv4(now.port()));
  }
  return Status::ok();
}

void NetworkMap::tell(int protocol, const InetAddress& then, const InetAddress& now) {
  if (!noted_.emplace(protocol, then.key()).second) return;
  image::AddressEntry& entry = *own_.add_entries();
  entry.set_protocol(static_cast<uint32_t>(protocol));
  entry.set_from(then.unmapped().bytes());
  entry.set_to(now.unmapped().bytes());
}

Status NetworkMap::bind(int fd, int protocol, const InetAddress& then) {
  FERMATA_ASSIGN_STATUS(const InetAddress here, address_here(then));
  const auto [place, first] =
      ports_.try_emplace({protocol, then.family(), then.port()}, then.port());
  if (first) {
    FERMATA_TRY(bind_first(fd, protocol, here));
    FERMATA_ASSIGN_STATUS(const InetAddress bound, InetAddress::local_of(fd));
    place->second = bound.port();
  } else if (protocol == IPPROTO_TCP) {
    FERMATA_TRY(bind_beside_others(fd, here.with_port(place->second)));
  } else {
    FERMATA_TRY(bind_plainly(fd, protocol, here.with_port(place->second)));
  }
  return note(fd, protocol, then);
}

void NetworkMap::learn(const image::AddressMap& map) {
  for (const image::AddressEntry& entry : map.entries()) {
    const Result<InetAddress> from = InetAddress::parse(entry.from());
    const Result<InetAddress> to = InetAddress::parse(entry.to());
    if (!from || !to || from->port() == 0 || to->port() == 0) continue;
    const Key key{entry.protocol(), from->key()};
    const auto [place, first] = known_.try_emplace(key, to->unmapped());
    const bool another = !first && place->second.key() != to->key();
    // Of our own we are certain.
    if (another && !noted_.contains(key)) ambiguous_.insert(key);
  }
}

Status NetworkMap::exchange() {
  learn(own_);
  if (!request_.exchange) return Status::ok();
  FERMATA_ASSIGN_STATUS(const image::AddressMap all, request_.exchange(own_));
  learn(all);
  return Status::ok();
}

std::optional<InetAddress> NetworkMap::now(int protocol, const InetAddress& then) const {
  const Key key{static_cast<uint32_t>(protocol), then.key()};
  const auto found = known_.find(key);
  if (found == known_.end() || ambiguous_.contains(key)) return std::nullopt;
  return found->second.for_family(then.family());
}

}  // namespace fermata::engine
