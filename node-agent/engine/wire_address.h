// Addresses of live sockets as they are on the wire. getsockname(2) tells what the pod's programs
// know, which is something else once addresses are translated (isolation). Tracer's thread.
#pragma once

#include <cstdint>
#include <map>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"
#include "node-agent/engine/outside.h"
#include "node-agent/engine/socket_diag.h"

namespace fermata::engine {

struct WireEnds {
  InetAddress local;   ///< empty: not bound
  InetAddress remote;  ///< empty: not connected
};

class WireAddresses {
 public:
  explicit WireAddresses(int protocol) : protocol_(protocol) {}
  /// The kernel's list is read at the first call, and only where addresses may be translated; in it
  /// a connection that is being made has its remote address, too.
  Result<WireEnds> of(int fd, const OutsideConnections& outside);

 private:
  int protocol_;
  bool listed_ = false;
  std::map<uint64_t, InetSocket> sockets_;  ///< by cookie
};

}  // namespace fermata::engine
