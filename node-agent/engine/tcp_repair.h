// TCP connections by way of TCP_REPAIR (CAP_NET_ADMIN): the unsent part of a live one is read, and
// both ends of a new one are put into the state "established" with given queues, without a packet.
// Tracer's thread.
//
// A socket in repair mode does not send, and a program's own send() on it fails. So a live socket
// must leave it whatever happens to us. SendQueueReader therefore works in a short-lived process of
// its own, in its own session and with all signals blocked: the death of the agent by SIGKILL does
// not touch it, and when it is killed itself the agent ends repair mode in its place. Only the
// death of both within the 30 microseconds a socket takes would leave one behind.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"

namespace fermata::engine {

/// One direction of a live connection whose program is stopped.
struct Direction {
  int sender = -1;
  int receiver = -1;
  bool fin_queued = false;  ///< the sender's program has shut its side down
  // Results:
  std::string unreceived;       ///< what was written and is not in the receiver's queue yet
  uint32_t receiver_queue = 0;  ///< bytes in that queue at this moment
};

/// Fills the results of all directions. kBusy: something moved meanwhile, ask again.
Status read_send_queues(std::span<Direction> directions);

/// One end to be: `fd` is a new, unconnected socket.
struct ConnectionEnd {
  int fd = -1;
  InetAddress local;
  std::string_view received;  ///< its receive queue
};

/// Connects a to b. Both are out of repair mode afterwards, on failure too.
/// kConflict with errno EADDRNOTAVAIL or EADDRINUSE: the pair of addresses is taken.
Status connect_pair(const ConnectionEnd& a, const ConnectionEnd& b);

/// bind(2) that does not mind connections still in TIME_WAIT on the port, or others of the same
/// pod.
Status bind_beside_others(int fd, const InetAddress& address);

}  // namespace fermata::engine
