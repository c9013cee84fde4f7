// TCP_REPAIR (CAP_NET_ADMIN, tcp(7) lacks it): the steps of which reading a live socket (tcp_live)
// and making a connected one (tcp_connect) consist. Any thread.
#pragma once

#include <linux/tcp.h>
#include <netinet/in.h>

#include <cstdint>
#include <string_view>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"

namespace fermata::engine {

enum class RepairQueue : int {
  kNone = TCP_NO_QUEUE,
  kReceive = TCP_RECV_QUEUE,
  kSend = TCP_SEND_QUEUE
};

/// setsockopt and getsockopt of an int of IPPROTO_TCP; 0 or the errno.
int set_tcp_int(int fd, int name, int value);
int get_tcp_int(int fd, int name, int& value);

/// Leaves repair mode without a packet. Entering it made the socket ignore address conflicts and
/// leaving it clears SO_REUSEADDR (net/ipv4/tcp.c), which is put back. 0 or the errno. System calls
/// only.
int leave_repair(int fd, int reuse);

/// Repair mode for the life of this object.
class RepairMode {
 public:
  explicit RepairMode(int fd);
  ~RepairMode() { leave(); }
  RepairMode(const RepairMode&) = delete;
  RepairMode& operator=(const RepairMode&) = delete;

  int error() const { return error_; }
  void leave();

 private:
  int fd_;
  int reuse_ = 0;
  int error_ = 0;
};

/// "<what> of TCP socket 10.0.0.1:7000: <error>".
Status tcp_status(int error, std::string_view what, const InetAddress& local);

// All below: in repair mode.

/// Only while the socket is closed.
Status set_sequence(int fd, const InetAddress& local, RepairQueue queue, uint32_t sequence);

/// Puts bytes into a queue: to be read, or as sent once. There has to be room (make_room).
Status fill_queue(int fd, const InetAddress& local, RepairQueue queue, std::string_view bytes);

/// Back to an unconnected socket, without a packet; the error this leaves is taken off.
void disconnect_silently(int fd);

/// bind(2) that does not mind connections still in TIME_WAIT on the port, or others of the same
/// pod. Enters repair mode and leaves it.
Status bind_beside_others(int fd, const InetAddress& address);

}  // namespace fermata::engine
