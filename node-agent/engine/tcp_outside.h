// TCP connections whose other end is in another pod, captured there by itself. The pods are cut off
// from each other before any of them is captured, so a segment is either in the receiver's queue or
// still in the sender's: with the sequence numbers kept, both ends rebuilt go on as after a moment
// of silence on the wire. A FIN is sent again by who sent it; until it arrives, the receiving side
// is shut down here, so that the program sees the end of file it may have seen before.
//
// A rebuilt end stands in repair mode, silent, until all pods stand. One whose other end is of no
// pod of the step is connected to a socket of ours instead, which then ends the connection as it
// would have ended: the program sees ECONNRESET, or the end of file that it was to see.
// Tracer's thread.
#pragma once

#include <vector>

#include "node-agent/engine/file_kind.h"
#include "node-agent/engine/tcp_pairs.h"

namespace fermata::engine {

/// Completes the records of the connections `leaving` (ids). After read_queues(). kBusy: something
/// moved meanwhile, ask again.
Status read_leaving(const std::vector<uint32_t>& leaving, const LiveTcps& live,
                    TcpRecords& records);

/// What the coordinator is told of one.
image::OutsideConnection outside_connection(const LiveTcp& live, std::string holder);

/// The rebuild.
class TcpOutside {
 public:
  /// Of a CONNECTED socket with `wire`, or of a CONNECTING one: after the exchange.
  Status connect(const image::File& file, int fd, const NetworkMap& network);
  /// When all pods stand.
  Status begin();

 private:
  struct End {
    const image::TcpSocket* tcp;
    int fd;
  };
  struct Severed {
    const image::TcpSocket* tcp;
    int fd;
    UniqueFd other_end;
    bool reset;
  };

  Status sever(const image::TcpSocket& tcp, int fd, bool reset);

  std::vector<End> ends_;
  std::vector<Severed> severed_;
};

}  // namespace fermata::engine
