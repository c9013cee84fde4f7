#include "node-agent/isolation/address_table.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>

#include "common/socket_address.h"

namespace fermata::isolation {
namespace {

using Address = std::array<uint32_t, 4>;

struct Endpoint {
  Address address{};
  uint16_t port = 0;

  auto operator<=>(const Endpoint&) const = default;
};

const uint32_t kMappedPrefix = htonl(0xffff);

Address v4_address(in_addr_t address) { return {0, 0, kMappedPrefix, address}; }
bool is_v4(const Address& a) { return a[0] == 0 && a[1] == 0 && a[2] == kMappedPrefix; }

bool is_wildcard(const Address& a) { return a == Address{} || a == v4_address(INADDR_ANY); }

// By which a socket bound to this wildcard is reached; one of IPv6 takes IPv4 too (ipv6(7)).
std::vector<Address> loopbacks_of(const Address& wildcard) {
  const Address v4 = v4_address(htonl(INADDR_LOOPBACK));
  if (is_v4(wildcard)) return {v4};
  return {{0, 0, 0, htonl(1)}, v4};
}

Result<Endpoint> parse(std::string_view bytes) {
  const std::optional<fermata::Endpoint> read = fermata::endpoint_of(bytes);
  if (!read) return failure(Code::kDamaged, "an address to translate is neither IPv4 nor IPv6");
  Endpoint endpoint{{}, htons(read->port)};
  static_assert(sizeof endpoint.address == sizeof read->ip);
  std::memcpy(endpoint.address.data(), read->ip.data(), sizeof read->ip);
  return endpoint;
}

Endpoint endpoint_of(const uint32_t (&address)[4], uint16_t port) {
  return {{address[0], address[1], address[2], address[3]}, port};
}

std::string bytes_of(const Endpoint& endpoint) {
  if (is_v4(endpoint.address)) {
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = endpoint.port;
    v4.sin_addr.s_addr = endpoint.address[3];
    return {reinterpret_cast<const char*>(&v4), sizeof(v4)};
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = endpoint.port;
  std::memcpy(&v6.sin6_addr, endpoint.address.data(), sizeof(v6.sin6_addr));
  return {reinterpret_cast<const char*>(&v6), sizeof(v6)};
}

std::string text(const Endpoint& endpoint) {
  std::array<char, INET6_ADDRSTRLEN> words{};
  inet_ntop(AF_INET6, endpoint.address.data(), words.data(), words.size());
  return fmt::format("[{}]:{}", words.data(), ntohs(endpoint.port));
}

/// An entry as it was given.
struct Given {
  uint8_t protocol = 0;
  Endpoint from;
  Endpoint to;
};

Result<Given> parse(const image::AddressEntry& entry) {
  Given given;
  if (entry.protocol() != 0 && entry.protocol() != IPPROTO_TCP && entry.protocol() != IPPROTO_UDP) {
    return failure(Code::kDamaged,
                   fmt::format("an address to translate is of protocol {}, neither TCP nor UDP",
                               entry.protocol()));
  }
  given.protocol = static_cast<uint8_t>(entry.protocol());
  FERMATA_ASSIGN(given.from, parse(entry.from()));
  FERMATA_ASSIGN(given.to, parse(entry.to()));
  if (is_v4(given.from.address) != is_v4(given.to.address)) {
    return failure(Code::kDamaged, fmt::format("{} cannot stand for {}: another family",
                                               text(given.to), text(given.from)));
  }
  if ((given.from.port == 0) != (given.to.port == 0)) {
    return failure(Code::kDamaged, fmt::format("{} cannot stand for {}: one has no port",
                                               text(given.to), text(given.from)));
  }
  return given;
}

std::vector<uint8_t> protocols_of(uint8_t protocol) {
  if (protocol != 0) return {protocol};
  return {IPPROTO_TCP, IPPROTO_UDP};
}

class Builder {
 public:
  Builder(const std::vector<Given>& given, uint32_t generation) : generation_(generation) {
    for (const Given& entry : given) {
      if (entry.from.port == 0) hosts_[entry.to.address].insert(entry.from.address);
    }
    for (const Given& entry : given) {
      const auto hosts = hosts_.find(entry.to.address);
      if (hosts == hosts_.end() || !hosts->second.contains(entry.from.address)) continue;
      own_.emplace(entry.to.address, entry.from.address);
    }
    for (uint32_t i = 0; i < given.size(); ++i) add(given[i], i);
    for (uint32_t i = 0; i < given.size(); ++i) add_loopback(given[i]);
    add_ordinals();
  }

  AddressTable take() { return std::move(table_); }

 private:
  /// The first entry for a key stays.
  void put(uint8_t direction, uint8_t protocol, const Endpoint& key, const Endpoint& value,
           AddressValue rest) {
    if (!keys_.insert({direction, protocol, key}).second) return;
    TableEntry entry{};
    std::copy_n(key.address.begin(), 4, &entry.key.address[0]);
    entry.key.port = key.port;
    entry.key.protocol = protocol;
    entry.key.direction = direction;
    entry.key.generation = generation_;
    entry.value = rest;
    std::copy_n(value.address.begin(), 4, &entry.value.address[0]);
    entry.value.port = value.port;
    table_.entries.push_back(entry);
  }

  void add(const Given& given, uint32_t index) {
    AddressValue rest{};
    rest.given_protocol = given.protocol;
    rest.index = index;
    rest.flags = kGiven;
    if (given.from.port == 0) {
      const std::set<Address>& hosts = hosts_[given.to.address];
      if (hosts.size() > 1) {
        rest.flags |= kShared;
        rest.ordinal =
            static_cast<uint32_t>(std::distance(hosts.begin(), hosts.find(given.from.address)));
      }
    }
    for (const uint8_t protocol : protocols_of(given.protocol)) {
      put(kFromProgram, protocol, given.from, given.to, rest);
      if (given.from.port == 0 && own_[given.to.address] != given.from.address) continue;
      put(kFromWire, protocol, given.to, given.from, rest);
    }
  }

  /// A socket bound to every address of its host is reached by the loopback one too.
  void add_loopback(const Given& given) {
    if (given.from.port == 0 || !is_wildcard(given.from.address)) return;
    if (!is_wildcard(given.to.address)) return;
    for (const Address& loopback : loopbacks_of(given.from.address)) {
      const Endpoint from{loopback, given.from.port};
      const Endpoint to{loopback, given.to.port};
      for (const uint8_t protocol : protocols_of(given.protocol)) {
        put(kFromProgram, protocol, from, to, {});
        put(kFromWire, protocol, to, from, {});
      }
    }
  }

  void add_ordinals() {
    for (const auto& [wire, hosts] : hosts_) {
      if (hosts.size() < 2) continue;
      table_.shared = true;
      uint16_t ordinal = 0;
      for (const Address& host : hosts) put(kByOrdinal, 0, {wire, ordinal++}, {host, 0}, {});
    }
  }

  uint32_t generation_;
  AddressTable table_;
  std::set<std::tuple<uint8_t, uint8_t, Endpoint>> keys_;
  /// Hosts behind an address on the wire, in an order that every pod finds.
  std::map<Address, std::set<Address>> hosts_;
  /// Which of them a socket of the pod's at that address is taken for.
  std::map<Address, Address> own_;
};

}  // namespace

Result<AddressTable> build_table(const image::AddressMap& addresses, uint32_t generation) {
  std::vector<Given> given;
  given.reserve(static_cast<size_t>(addresses.entries_size()));
  for (const image::AddressEntry& entry : addresses.entries()) {
    FERMATA_ASSIGN(given.emplace_back(), parse(entry));
  }
  return Builder(given, generation).take();
}

image::AddressMap given_addresses(std::vector<TableEntry> entries) {
  // An entry of any protocol stands in the table twice.
  const auto counts = [](const TableEntry& entry) {
    if ((entry.value.flags & kLearned) != 0) return entry.key.direction == kFromWire;
    return (entry.value.flags & kGiven) != 0 && entry.key.direction == kFromProgram &&
           (entry.value.given_protocol != 0 || entry.key.protocol == IPPROTO_TCP);
  };
  std::erase_if(entries, [&](const TableEntry& entry) { return !counts(entry); });
  const auto place = [](const TableEntry& entry) {
    return std::tuple((entry.value.flags & kLearned) != 0, entry.value.index,
                      endpoint_of(entry.key.address, entry.key.port), entry.key.protocol);
  };
  std::ranges::sort(entries, {}, place);
  image::AddressMap map;
  for (const TableEntry& entry : entries) {
    image::AddressEntry& given = *map.add_entries();
    const std::string key = bytes_of(endpoint_of(entry.key.address, entry.key.port));
    const std::string value = bytes_of(endpoint_of(entry.value.address, entry.value.port));
    if ((entry.value.flags & kLearned) != 0) {
      given.set_protocol(entry.key.protocol);
      given.set_from(value);
      given.set_to(key);
    } else {
      given.set_protocol(entry.value.given_protocol);
      given.set_from(key);
      given.set_to(value);
    }
  }
  return map;
}

}  // namespace fermata::isolation
