// The IP addresses of a node, and what becomes of a pod's addresses when it is restarted elsewhere.
// A socket has two: the one on the wire, and the one its programs take for it. They are the same
// until the pod is restarted where its address or port cannot be had; from then on isolation
// translates. So at a restart a pod tells the others two things about each of its sockets, in one
// map: what stands for its address on the wire at the cut (the engine connects by that), and what
// stands for the name that programs know (isolation translates by that). Plain functions; any
// thread.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"
#include "proto/addresses.pb.h"
#include "proto/objects.pb.h"

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

/// What an image says of the addresses of its pod.
struct AddressesThen {
  image::AddressMap translations;          ///< names that programs know (from), on the wire (to)
  std::vector<engine::InetAddress> known;  ///< of the node it was first started on
  std::vector<engine::InetAddress> node;   ///< of the node at the cut
};
/// kDamaged.
Result<AddressesThen> addresses_then(const image::PodState& state);

/// What the other pods have to know of a pod, given the addresses of its sockets on the wire then
/// and now (`own`). `here` is address_here() of this node. Entries of names have kNamed added to
/// their protocol; of hosts (port 0, any protocol) there are names only.
inline constexpr uint32_t kNamed = 0x100;
image::AddressMap addresses_to_tell(
    const image::AddressMap& own, const AddressesThen& then,
    const std::function<Result<engine::InetAddress>(const engine::InetAddress&)>& here);

/// From what all pods told, and what this one did: what the engine connects by. What is of its node
/// only counts for no other pod.
image::AddressMap wire_addresses(const image::AddressMap& own, const image::AddressMap& all);
/// From the same: what isolation translates. Empty where everything is where it was.
image::AddressMap translations(const image::AddressMap& own, const image::AddressMap& all);

}  // namespace fermata::node_agent
