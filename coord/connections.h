// Which TCP connections of a set leave the job: those whose other end is in no pod of it. Pure
// functions.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "common/socket_address.h"
#include "common/status.h"
#include "proto/addresses.pb.h"

namespace fermata::coord {

/// What is done about a connection that leaves the job.
enum class ExternalTcp {
  kRefuse,  ///< no set can be taken while there is one
  kReset,   ///< the job that runs on keeps it; after a restart it ends with ECONNRESET
};
/// "refuse" (also when empty), "reset".
Result<ExternalTcp> parse_external_tcp(std::string_view text);
std::string_view external_tcp_name(ExternalTcp policy);

/// The connections of one pod that leave it.
struct PodConnections {
  std::string node;
  std::span<const image::OutsideConnection> connections;
};

/// IP addresses, in the form that ip_of() gives them.
using Addresses = std::unordered_set<std::string>;

/// A connection without its other end.
struct LeavingConnection {
  size_t pod = 0;  ///< its place in what was given
  const image::OutsideConnection* connection = nullptr;
};

/// Pairs the connections of all pods and returns those that are left over. Ends whose peer on one
/// of the job's own hosts may have no descriptor any more, because it was closed there, are none:
/// what TCP has left to say to them does not depend on the peer.
std::vector<LeavingConnection> leaving_connections(std::span<const PodConnections> pods,
                                                   const Addresses& own_hosts);

/// kCannotHold, naming node, process, descriptor and peer of each (of the first few).
Status refuse_leaving(std::span<const PodConnections> pods,
                      std::span<const LeavingConnection> leaving);

/// Tells, over the attempts to take one set, what leaves the job from what is just being made: at a
/// cut the client of a new connection can have heard of it and its server not.
class LeavingJudge {
 public:
  /// `cut`: the pods were cut off when they were looked at. If not, a connection may have been
  /// closed between two looks, whoever its other end is.
  explicit LeavingJudge(bool cut) : cut_(cut) {}
  /// As refuse_leaving(). kBusy: each was not there, or had its other end, when this was asked
  /// last, and, after a cut, leads to one of the job's own hosts.
  Status judge(std::span<const PodConnections> pods, std::span<const LeavingConnection> leaving,
               const Addresses& own_hosts);

 private:
  const bool cut_;
  std::unordered_set<std::string> left_before_;  ///< by both addresses
};

}  // namespace fermata::coord
