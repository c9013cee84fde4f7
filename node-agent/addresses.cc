#include "node-agent/addresses.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

namespace fermata::node_agent {
namespace {

using engine::InetAddress;

constexpr size_t kIpv4Bytes = 4;

/// The address without its port: 4 or 16 bytes; IPv4-mapped ones as IPv4.
std::string host_of(const InetAddress& address) {
  const std::string key = address.key();
  return key.substr(0, key.size() - sizeof(uint16_t));
}

InetAddress with(const std::string& host, uint16_t port) {
  return {host.data(), host.size() == kIpv4Bytes ? AF_INET : AF_INET6, port};
}

/// `host` in the form of `like`: an IPv4 address that was written as an IPv6 one is so again.
InetAddress in_form_of(const InetAddress& like, const std::string& host, uint16_t port) {
  if (like.family() == AF_INET6 && host.size() == kIpv4Bytes) {
    std::string mapped(10, '\0');
    mapped += "\xff\xff" + host;
    return with(mapped, port);
  }
  return with(host, port);
}

bool is_link_local(const std::string& host) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(host[i]); };
  if (host.size() == kIpv4Bytes) return byte(0) == 169 && byte(1) == 254;
  return byte(0) == 0xfe && (byte(1) & 0xc0U) == 0x80;
}

bool same_network(const std::string& a, const std::string& b, unsigned prefix) {
  if (a.size() != b.size() || prefix > a.size() * 8) return false;
  const size_t whole = prefix / 8;
  if (std::memcmp(a.data(), b.data(), whole) != 0) return false;
  const unsigned rest = prefix % 8;
  if (rest == 0) return true;
  const unsigned mask = 0xff00U >> rest;
  return ((static_cast<unsigned char>(a[whole]) ^ static_cast<unsigned char>(b[whole])) & mask &
          0xffU) == 0;
}

unsigned bits_set(const InetAddress& mask) {
  unsigned bits = 0;
  for (const char c : host_of(mask)) {
    bits += static_cast<unsigned>(std::popcount(static_cast<unsigned char>(c)));
  }
  return bits;
}

Result<InetAddress> parse(const sockaddr* address) {
  const socklen_t size = address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  return InetAddress::parse({reinterpret_cast<const char*>(address), size});
}

/// One entry, taken apart. Entries that are no addresses are nobody's.
struct Pair {
  uint32_t protocol = 0;
  InetAddress from;
  InetAddress to;
};

std::vector<Pair> pairs_of(const image::AddressMap& map) {
  std::vector<Pair> pairs;
  for (const image::AddressEntry& entry : map.entries()) {
    const Result<InetAddress> from = InetAddress::parse(entry.from());
    const Result<InetAddress> to = InetAddress::parse(entry.to());
    if (from && to && !from->empty() && !to->empty()) {
      pairs.push_back({entry.protocol(), *from, *to});
    }
  }
  return pairs;
}

/// A map under construction: the first entry of an address stays.
class Collected {
 public:
  void add(uint32_t protocol, const InetAddress& from, const InetAddress& to) {
    if (!known_.emplace(protocol, from.key()).second) return;
    image::AddressEntry& entry = *map_.add_entries();
    entry.set_protocol(protocol);
    entry.set_from(from.bytes());
    entry.set_to(to.bytes());
  }
  image::AddressMap take() { return std::move(map_); }

 private:
  std::set<std::pair<uint32_t, std::string>> known_;
  image::AddressMap map_;
};

class Lookup {
 public:
  explicit Lookup(const std::vector<Pair>& pairs) {
    for (const Pair& pair : pairs)
      by_key_.emplace(std::pair(pair.protocol, pair.from.key()), pair.to);
  }
  std::optional<InetAddress> exact(uint32_t protocol, const InetAddress& from) const {
    auto found = by_key_.find({protocol, from.key()});
    if (found == by_key_.end()) found = by_key_.find({0, from.key()});
    if (found == by_key_.end()) return std::nullopt;
    return found->second;
  }
  /// By the entry of its host, with the port that `from` has.
  std::optional<InetAddress> by_host(uint32_t protocol, const InetAddress& from) const {
    const std::optional<InetAddress> host = exact(protocol, with(host_of(from), 0));
    if (!host) return std::nullopt;
    return in_form_of(from, host_of(*host), from.port());
  }

 private:
  std::map<std::pair<uint32_t, std::string>, InetAddress> by_key_;
};

}  // namespace

Result<std::vector<NodeAddress>> addresses_of_this_node() {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return errno_failure(errno, "the addresses of this node (getifaddrs)");
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> guard(all, &freeifaddrs);
  std::vector<NodeAddress> out;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0) continue;
    const int family = one->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    FERMATA_ASSIGN(InetAddress address, parse(one->ifa_addr));
    NodeAddress node{address, 0, one->ifa_name};
    if (one->ifa_netmask != nullptr && one->ifa_netmask->sa_family == family) {
      FERMATA_ASSIGN(const InetAddress mask, parse(one->ifa_netmask));
      node.prefix = bits_set(mask);
    }
    out.push_back(std::move(node));
  }
  return out;
}

bool is_loopback(const InetAddress& address) {
  const std::string host = host_of(address);
  if (host.size() == kIpv4Bytes) return host[0] == 127;
  return host == std::string(15, '\0') + '\1';
}

bool is_of_its_node_only(const InetAddress& address) {
  return address.is_wildcard() || is_loopback(address);
}

bool is_global(const InetAddress& address) {
  return !is_of_its_node_only(address) && !is_link_local(host_of(address));
}

Result<InetAddress> address_here(const InetAddress& then, std::span<const NodeAddress> node) {
  if (then.empty() || is_of_its_node_only(then)) return then;
  const std::string host = host_of(then);
  const auto first = [&](const auto& fits) -> std::optional<InetAddress> {
    const auto found = std::find_if(node.begin(), node.end(), fits);
    if (found == node.end()) return std::nullopt;
    return in_form_of(then, host_of(found->address), then.port());
  };
  const auto is_the_same = [&](const NodeAddress& own) { return host_of(own.address) == host; };
  if (first(is_the_same)) return then;
  if (is_link_local(host)) {
    return failure(Code::kUnsupported,
                   fmt::format("{} is a link-local address, which holds on its own node only: "
                               "restart the pod there",
                               then.text()));
  }
  const auto is_near = [&](const NodeAddress& own) {
    return is_global(own.address) && same_network(host_of(own.address), host, own.prefix);
  };
  if (const auto found = first(is_near)) return *found;
  const auto is_of_the_family = [&](const NodeAddress& own) {
    return is_global(own.address) && host_of(own.address).size() == host.size();
  };
  if (const auto found = first(is_of_the_family)) return *found;
  return failure(Code::kUnsupported,
                 fmt::format("this node has no {} address that could stand for {}: give it one, or "
                             "choose another node",
                             host.size() == kIpv4Bytes ? "IPv4" : "IPv6", then.text()));
}

image::AddressMap addresses_to_tell(
    const image::AddressMap& own, std::span<const InetAddress> node_then,
    const std::function<Result<InetAddress>(const InetAddress&)>& here) {
  const std::vector<Pair> pairs = pairs_of(own);
  Collected out;
  for (const Pair& pair : pairs) out.add(pair.protocol, pair.from, pair.to);

  // Hosts: what the sockets say, then what the node says.
  std::vector<std::pair<std::string, std::string>> hosts;
  const auto know = [&](const std::string& from, const std::string& to) {
    const auto is_it = [&](const auto& host) { return host.first == from; };
    if (std::none_of(hosts.begin(), hosts.end(), is_it)) hosts.emplace_back(from, to);
  };
  for (const Pair& pair : pairs) {
    if (!is_of_its_node_only(pair.from)) know(host_of(pair.from), host_of(pair.to));
  }
  for (const InetAddress& address : node_then) {
    if (!is_global(address)) continue;
    if (const Result<InetAddress> now = here(address)) know(host_of(address), host_of(*now));
  }

  for (const Pair& pair : pairs) {
    if (!pair.from.is_wildcard() || pair.from.port() == 0) continue;
    const bool ipv4_only = host_of(pair.from).size() == kIpv4Bytes;
    for (const auto& [from, to] : hosts) {
      // A socket bound to [::] is reached by IPv4, too.
      if (ipv4_only && from.size() != kIpv4Bytes) continue;
      out.add(pair.protocol, with(from, pair.from.port()), with(to, pair.to.port()));
    }
  }
  for (const auto& [from, to] : hosts) out.add(0, with(from, 0), with(to, 0));
  return out.take();
}

image::AddressMap addresses_seen(const image::AddressMap& own, const image::AddressMap& all) {
  Collected out;
  for (const Pair& pair : pairs_of(own)) out.add(pair.protocol, pair.from, pair.to);
  for (const Pair& pair : pairs_of(all)) {
    if (!is_of_its_node_only(pair.from)) out.add(pair.protocol, pair.from, pair.to);
  }
  return out.take();
}

image::AddressMap with_port(const image::AddressMap& addresses) {
  image::AddressMap out;
  for (const image::AddressEntry& entry : addresses.entries()) {
    const Result<InetAddress> from = InetAddress::parse(entry.from());
    if (from && !from->empty() && from->port() != 0) *out.add_entries() = entry;
  }
  return out;
}

image::AddressMap compose(const image::AddressMap& before, const image::AddressMap& seen) {
  const std::vector<Pair> known = pairs_of(before);
  const std::vector<Pair> moved = pairs_of(seen);
  const Lookup now(moved);

  std::vector<Pair> all;
  std::set<std::pair<uint32_t, std::string>> wire;  // addresses that have another name in the pod
  for (const Pair& pair : known) {
    std::optional<InetAddress> to = now.exact(pair.protocol, pair.to);
    if (!to) to = now.exact(pair.protocol, pair.from);
    if (!to) to = now.by_host(pair.protocol, pair.to);
    all.push_back({pair.protocol, pair.from, to.value_or(pair.to)});
    wire.emplace(pair.protocol, pair.to.key());
  }
  for (const Pair& pair : moved) {
    const bool named = pair.from.port() != 0 && (wire.contains({pair.protocol, pair.from.key()}) ||
                                                 wire.contains({0, pair.from.key()}));
    if (!named) all.push_back(pair);
  }

  const Lookup final_hosts(all);
  Collected out;
  for (const Pair& pair : all) {
    if (pair.from.key() == pair.to.key()) {
      // Needs saying only where its host says something else.
      const std::optional<InetAddress> host = final_hosts.by_host(pair.protocol, pair.from);
      if (pair.from.port() == 0 || !host || host->key() == pair.from.key()) continue;
    }
    out.add(pair.protocol, pair.from, pair.to);
  }
  return out.take();
}

}  // namespace fermata::node_agent
