// Where the sockets of a rebuilt pod are: addresses and ports then and now, of this pod and, once
// they were exchanged, of all pods of the step. One rebuild, tracer's thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "node-agent/engine/inet_address.h"
#include "node-agent/engine/rebuild.h"

namespace fermata::engine {

class NetworkMap {
 public:
  explicit NetworkMap(NetworkRequest request) : request_(std::move(request)) {}

  /// Whether addresses and ports may become others. If not, a port that is taken is an error.
  bool moves() const { return request_.address_here || request_.exchange; }
  bool reset_outside() const { return request_.reset_outside; }

  /// The address of this node that stands for `then`, in the same form and with the same port.
  Result<InetAddress> address_here(const InetAddress& then) const;

  /// Binds where moves(): the first socket of a port must have it for itself, or gets a free port;
  /// all others with the same number then are put beside it.
  Status bind(int fd, int protocol, const InetAddress& then);

  /// Tells the other pods our addresses and learns theirs.
  Status exchange();
  /// Where a socket of the step is that was at `then`, in the same form; nullopt: it is of no pod
  /// of the step. After exchange().
  std::optional<InetAddress> now(int protocol, const InetAddress& then) const;

 private:
  using Key = std::pair<uint32_t, std::string>;

  Status bind_first(int fd, int protocol, const InetAddress& wanted) const;
  Status note(int fd, int protocol, const InetAddress& then);
  void tell(int protocol, const InetAddress& then, const InetAddress& now);
  void learn(const image::AddressMap& map);

  NetworkRequest request_;
  /// By protocol, family and number: then, now. One port of IPv4 and of IPv6 may be two sockets'.
  std::map<std::tuple<int, int, uint16_t>, uint16_t> ports_;
  image::AddressMap own_;
  std::set<Key> noted_;
  std::map<Key, InetAddress> known_;
  std::set<Key> ambiguous_;  ///< known for two sockets: loopback addresses of two pods
};

}  // namespace fermata::engine
