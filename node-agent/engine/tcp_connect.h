// New sockets put into the state "established" by TCP_REPAIR, with given queues and without a
// packet: both ends of a connection inside the pod, or one end of a connection to another pod.
// Tracer's thread.
#pragma once

#include <string_view>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"
#include "proto/files.pb.h"

namespace fermata::engine {

/// One end to be: `fd` is a new, unconnected socket bound at `local`.
struct ConnectionEnd {
  int fd = -1;
  InetAddress local;
  std::string_view received;  ///< its receive queue
};

/// Connects a to b. Both are out of repair mode afterwards, on failure too.
/// kConflict with errno EADDRNOTAVAIL or EADDRINUSE: the pair of addresses is taken.
Status connect_pair(const ConnectionEnd& a, const ConnectionEnd& b);

/// Connects `fd`, bound, to an end that somebody else makes, with the numbers and the receive queue
/// of `tcp`. It stays in repair mode, silent, until release_wire(). Failures as above; then it is
/// unconnected and out of repair mode.
Status connect_wire(int fd, const InetAddress& remote, const image::TcpSocket& tcp);

/// When the other end stands: what was sent once counts as sent, the rest is sent, and the other
/// end is asked what it has. An end that the other one has reset meanwhile stays so.
Status release_wire(int fd, const image::TcpSocket& tcp);

/// Sends without waiting; there has to be room.
Status send_all(int fd, std::string_view bytes);

}  // namespace fermata::engine
