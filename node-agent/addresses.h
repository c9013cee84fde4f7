// The IP addresses of a node, and what becomes of a pod's addresses when it is restarted elsewhere.
// A map goes from an address as it was at the cut to the one that stands for it now; port 0 stands
// for every port of the host, protocol 0 for every protocol. Plain functions; any thread.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"
#include "proto/addresses.pb.h"

namespace fermata::node_agent {

/// An address of an interface that is up.
struct NodeAddress {
  engine::InetAddress address;  ///< port 0
  unsigned prefix = 0;          ///< bits of its network
  std::string name;             ///< of the interface
};

/// Of this node, loopback included (getifaddrs(3)).
Result<std::vector<NodeAddress>> addresses_of_this_node();

bool is_loopback(const engine::InetAddress& address);
/// Loopback or wildcard: it means something else on each node.
bool is_of_its_node_only(const engine::InetAddress& address);
/// Neither of these, nor link-local.
bool is_global(const engine::InetAddress& address);

/// What stands on this node for an address of another: itself where this node has it, and where it
/// is of its node only; else this node's first address in the same network; else its first global
/// one of the family. The port is kept. kUnsupported: there is none.
Result<engine::InetAddress> address_here(const engine::InetAddress& then,
                                         std::span<const NodeAddress> node);

/// What the other pods have to know of a pod, given the addresses of its sockets then and now
/// (`own`): these; for each address the node had then, the host that stands for it; and under each
/// of those addresses the sockets that were bound to all of them. `here` is address_here() of this
/// node.
image::AddressMap addresses_to_tell(
    const image::AddressMap& own, std::span<const engine::InetAddress> node_then,
    const std::function<Result<engine::InetAddress>(const engine::InetAddress&)>& here);

/// What of the addresses of all pods holds in a pod whose own are `own`: its own first; what is of
/// its node only counts for no other.
image::AddressMap addresses_seen(const image::AddressMap& own, const image::AddressMap& all);

/// The entries that name a port.
image::AddressMap with_port(const image::AddressMap& addresses);

/// The translations of a restarted pod: `before` is what its programs knew (from) and what that was
/// on the wire at the cut (to), `seen` what has become of the latter.
image::AddressMap compose(const image::AddressMap& before, const image::AddressMap& seen);

}  // namespace fermata::node_agent
