// What a capture finds of the pod's connections with others. Plain value; tracer's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "common/unique_fd.h"
#include "proto/addresses.pb.h"

namespace fermata::engine {

struct OutsideConnections {
  /// Whether they are captured instead of refused. The pod is cut off then, and its sockets may
  /// have addresses that its programs do not know, so that only the kernel's list (sock_diag) tells
  /// those on the wire.
  bool allowed = false;
  uint64_t group = 0;  ///< id of the pod's cgroup v2 group; 0: not known
  // Found:
  std::vector<image::OutsideConnection> connections;
  std::vector<UniqueFd> sockets;  ///< of every connection, those inside the pod included
};

}  // namespace fermata::engine
