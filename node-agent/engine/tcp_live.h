// What only repair mode tells of live TCP connections: send queues, sequence numbers, windows.
// Tracer's thread.
//
// A socket in repair mode does not send, and a program's own send() on it fails. So a live socket
// must leave it whatever happens to us. The reading is therefore done by a short-lived process of
// its own, in its own session and with all signals blocked: the death of the agent by SIGKILL does
// not touch it, and when it is killed itself the agent ends repair mode in its place. Only the
// death of both within the 30 microseconds a socket takes would leave one behind.
#pragma once

#include <linux/tcp.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"

namespace fermata::engine {

/// One direction of a live connection whose program is stopped, both ends in our hands.
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

/// One end of a live connection whose program is stopped; the other end is somebody else's.
struct WireEnd {
  int fd = -1;
  // Results:
  std::string queue;           ///< written and not acknowledged
  uint32_t unsent = 0;         ///< at its end: bytes never sent, a FIN counted as one
  uint32_t write_next = 0;     ///< sequence number after all that was written, a FIN included
  uint32_t receive_next = 0;   ///< sequence number after all that was received, a FIN included
  uint32_t receive_queue = 0;  ///< bytes not read
  uint32_t segment = 0;        ///< largest that the other end takes
  tcp_repair_window window{};
};

/// Fills the results of all ends. kBusy as above.
Status read_wire_ends(std::span<WireEnd> ends);

}  // namespace fermata::engine
