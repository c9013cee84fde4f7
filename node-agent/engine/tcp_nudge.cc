// Has TCP connections go on at once that were cut off for a while.
//
// A sender whose packets were dropped waits for its retransmission timer. TCP_REPAIR_OFF has an
// established socket send a window probe, also when it never was in repair mode
// (do_tcp_setsockopt() and tcp_send_window_probe(), Linux 4.8 to 6.18): the answer says what has
// arrived, and the sender sends what has not. A socket is not taken into repair mode for that: a
// send() of the program's in this moment would fail.
#include <linux/tcp.h>
#include <netinet/in.h>

#include <utility>

#include "node-agent/engine/capture.h"

namespace fermata::engine {
namespace {

int get_int(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, level, name, &value, &size) == 0 ? value : 0;
}

void set_int(int fd, int level, int name, int value) {
  ::setsockopt(fd, level, name, &value, sizeof value);
}

}  // namespace

// No error matters here: a socket that was closed or reset meanwhile has nothing to send.
// NOLINTNEXTLINE(performance-unnecessary-value-param): they are closed here
void nudge(std::vector<UniqueFd> sockets) {
  for (const UniqueFd& socket : sockets) {
    const int fd = socket.get();
    // The kernel clears it with repair mode.
    const int reuse = get_int(fd, SOL_SOCKET, SO_REUSEADDR);
    set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF);
    if (reuse != 0) set_int(fd, SOL_SOCKET, SO_REUSEADDR, reuse);
  }
  // In half-closed states as well, which have no window probe.
  send_unsent(sockets);
}

void send_unsent(const std::vector<UniqueFd>& sockets) {
  for (const UniqueFd& socket : sockets) {
    const int fd = socket.get();
    if (get_int(fd, IPPROTO_TCP, TCP_CORK) == 0) set_int(fd, IPPROTO_TCP, TCP_CORK, 0);
  }
}

}  // namespace fermata::engine
