// TCP connections with both ends in the pod. Both are captured at one cut and rebuilt together, so
// nothing of the wire is recorded: no sequence numbers, windows or timers. What counts is the
// stream in each direction, and it is in three parts: what the receiver has read, what waits in the
// receiver's queue (read by MSG_PEEK), and what the sender wrote and the receiver's queue lacks.
// The third is mostly empty; where it may not be, tcp_live reads it. A rebuild connects both ends
// by repair mode, fills the receive queues, and sends the third part.
//
// Where an end has no open file: closed by its program (the other end has seen, or will see, end of
// file), or connected and not accepted yet. The second is connected to the listener again, for
// real. Tracer's thread.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "node-agent/engine/file_kind.h"
#include "node-agent/engine/inet_address.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// A connected socket while a capture runs.
struct LiveTcp {
  FileProbe probe;  ///< with a descriptor of its own
  int state = 0;
  InetAddress local;
  InetAddress remote;
};

struct TcpListener {
  InetAddress local;
  uint32_t file_id = 0;
  uint32_t queued = 0;  ///< connections not accepted yet
  std::string text;
};

/// By file id.
using LiveTcps = std::map<uint32_t, LiveTcp>;
using TcpRecords = std::map<uint32_t, image::TcpSocket*>;

/// Finds the other end of every connection: a file of the pod, a closed one, or a listener's queue.
/// Returns those that have none in the pod. kCannotHold names what is between two states.
Result<std::vector<uint32_t>> pair_ends(const LiveTcps& live,
                                        const std::vector<TcpListener>& listeners,
                                        const OutsideConnections& outside, TcpRecords& records);

/// Reads the receive queues of all, and of pairs what is under way. kBusy: something moved
/// meanwhile, ask again.
Status read_queues(const LiveTcps& live, TcpRecords& records);

/// The rebuild of pairs; `files` are all TCP sockets of the image by id and outlive it.
class TcpPairs {
 public:
  explicit TcpPairs(const std::map<uint32_t, const image::File*>& files) : files_(files) {}

  /// Of a CONNECTED socket: with its peer, once. Of a WAITING one: to its listener.
  Status connect(const image::File& file, RebuildContext& context);

 private:
  Status connect_again(const image::File& file, RebuildContext& context);
  Status connect_to_listener(const image::File& file, RebuildContext& context) const;
  Status check_inside(const image::File& file) const;

  const std::map<uint32_t, const image::File*>& files_;
  std::set<uint32_t> connected_;
};

/// shutdown(2) of the sides that were shut down.
Status close_sides(int fd, const image::TcpSocket& tcp);

}  // namespace fermata::engine
