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

Result<std::vector<InetAddress>> parse_all(
    const google::protobuf::RepeatedPtrField<std::string>& all) {
  std::vector<InetAddress> out;
  for (const std::string& bytes : all) {
    FERMATA_ASSIGN(out.emplace_back(), InetAddress::parse(bytes));
    if (out.back().empty()) return failure(Code::kDamaged, "an empty address of a node");
  }
  return out;
}

/// The names that a pod's programs know its addresses by.
class Names {
 public:
  explicit Names(const AddressesThen& then) {
    for (const Pair& pair : pairs_of(then.translations)) {
      by_wire_.emplace(std::pair(pair.protocol, pair.to.key()), pair.from);
      if (pair.from.port() != 0) names_.insert(pair.from.key());
    }
    std::set<std::string> known;
    for (const InetAddress& address : then.known) known.insert(host_of(address));
    for (const Pair& pair : pairs_of(then.translations)) {
      const bool own_host = pair.from.port() == 0 && known.contains(host_of(pair.from));
      if (own_host) hosts_.emplace(host_of(pair.to), host_of(pair.from));
    }
    for (const std::string& host : known) hosts_.emplace(host, host);
  }

  InetAddress of(uint32_t protocol, const InetAddress& wire) const {
    for (const uint32_t one : {protocol, 0U}) {
      const auto found = by_wire_.find({one, wire.key()});
      if (found != by_wire_.end()) return found->second;
    }
    if (names_.contains(wire.key())) return wire;
    const auto host = hosts_.find(host_of(wire));
    return host == hosts_.end() ? wire : in_form_of(wire, host->second, wire.port());
  }

 private:
  std::map<std::pair<uint32_t, std::string>, InetAddress> by_wire_;
  std::set<std::string> names_;
  std::map<std::string, std::string> hosts_;  ///< wire to name
};

/// Where hosts are now: the first that is said of one stays.
class Hosts {
 public:
  void add(const std::string& from, const std::string& to) {
    const auto is_it = [&](const auto& host) { return host.first == from; };
    if (std::none_of(hosts_.begin(), hosts_.end(), is_it)) hosts_.emplace_back(from, to);
  }
  void add(const std::vector<InetAddress>& addresses,
           const std::function<Result<InetAddress>(const InetAddress&)>& here) {
    for (const InetAddress& address : addresses) {
      if (!is_global(address)) continue;
      if (const Result<InetAddress> now = here(address)) add(host_of(address), host_of(*now));
    }
  }
  /// A socket bound to all addresses of its host can be reached by each.
  void expand(uint32_t protocol, const InetAddress& from, uint16_t to, Collected& out) const {
    for (const auto& [then, now] : hosts_) {
      // One bound to [::] that IPv4 reaches, too, has an entry of its own for that.
      if (host_of(from).size() != then.size()) continue;
      out.add(protocol, with(then, from.port()), with(now, to));
    }
  }
  const std::vector<std::pair<std::string, std::string>>& all() const { return hosts_; }

 private:
  std::vector<std::pair<std::string, std::string>> hosts_;
};

/// What holds in a pod of its own entries and of those of all: its own first, and no other's that
/// is of its node only.
image::AddressMap chosen(const image::AddressMap& own, const image::AddressMap& all, bool named) {
  Collected out;
  const auto add = [&](const Pair& pair) {
    if (((pair.protocol & kNamed) != 0) != named) return;
    out.add(pair.protocol & ~kNamed, pair.from, pair.to);
  };
  for (const Pair& pair : pairs_of(own)) add(pair);
  for (const Pair& pair : pairs_of(all)) {
    if (!is_of_its_node_only(pair.from)) add(pair);
  }
  return out.take();
}

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

Result<AddressesThen> addresses_then(const image::PodState& state) {
  AddressesThen then;
  then.translations = state.translations();
  FERMATA_ASSIGN(then.known, parse_all(state.known_addresses()));
  FERMATA_ASSIGN(then.node, parse_all(state.node_addresses()));
  return then;
}

image::AddressMap addresses_to_tell(
    const image::AddressMap& own, const AddressesThen& then,
    const std::function<Result<InetAddress>(const InetAddress&)>& here) {
  const std::vector<Pair> pairs = pairs_of(own);
  const Names names(then);
  Collected out;
  Hosts wire;
  Hosts named;
  for (const Pair& pair : pairs) {
    const InetAddress name = names.of(pair.protocol, pair.from);
    out.add(pair.protocol, pair.from, pair.to);
    out.add(pair.protocol | kNamed, name, pair.to);
    if (is_of_its_node_only(pair.from)) continue;
    wire.add(host_of(pair.from), host_of(pair.to));
    named.add(host_of(name), host_of(pair.to));
  }
  wire.add(then.node, here);
  named.add(then.known, here);

  for (const Pair& pair : pairs) {
    if (!pair.from.is_wildcard() || pair.from.port() == 0) continue;
    wire.expand(pair.protocol, pair.from, pair.to.port(), out);
    named.expand(pair.protocol | kNamed, names.of(pair.protocol, pair.from), pair.to.port(), out);
  }
  for (const auto& [from, to] : named.all()) out.add(kNamed, with(from, 0), with(to, 0));
  return out.take();
}

image::AddressMap wire_addresses(const image::AddressMap& own, const image::AddressMap& all) {
  return chosen(own, all, false);
}

image::AddressMap translations(const image::AddressMap& own, const image::AddressMap& all) {
  const std::vector<Pair> pairs = pairs_of(chosen(own, all, true));
  std::set<std::string> moved;  // hosts of which something is not where it was
  for (const Pair& pair : pairs) {
    if (pair.from.key() == pair.to.key() || is_of_its_node_only(pair.from)) continue;
    moved.insert(host_of(pair.from));
    moved.insert(host_of(pair.to));
  }
  Collected out;
  for (const Pair& pair : pairs) {
    // What stayed has to be said as well, where something else of its host did not.
    const bool stayed = pair.from.key() == pair.to.key();
    if (!stayed || moved.contains(host_of(pair.from))) out.add(pair.protocol, pair.from, pair.to);
  }
  return out.take();
}

}  // namespace fermata::node_agent
