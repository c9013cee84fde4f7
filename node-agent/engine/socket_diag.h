// Sockets of this network namespace as the kernel lists them (sock_diag(7)): ends of connections
// that have no file, peers of UNIX sockets, who holds a port. Any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"

namespace fermata::engine {

/// TCP_* of <netinet/tcp.h>; `inode` 0: no process has a descriptor of it.
struct InetSocket {
  InetAddress local;
  InetAddress remote;
  int state = 0;
  uint64_t inode = 0;
  uint32_t receive_queue = 0;
  uint32_t send_queue = 0;
  uint64_t cookie = 0;  ///< SO_COOKIE
  uint64_t group = 0;   ///< id of its cgroup v2 group; 0: not a whole socket (TIME_WAIT, SYN_RECV)
};

/// All sockets of IPPROTO_TCP or IPPROTO_UDP, both families.
Result<std::vector<InetSocket>> list_inet_sockets(int protocol);

/// Ends a connection in TIME_WAIT, so that its ports are free at once (SOCK_DESTROY).
Status destroy_time_wait(const InetSocket& socket);

/// Of UnixSocketEntry::shutdown: the kernel's RCV_SHUTDOWN and SEND_SHUTDOWN.
constexpr uint32_t kNoReceive = 1;
constexpr uint32_t kNoSend = 2;

struct UnixSocketEntry {
  uint64_t inode = 0;
  int type = 0;
  int state = 0;  ///< TCP_LISTEN, TCP_ESTABLISHED, TCP_CLOSE
  bool has_peer = false;
  uint64_t peer = 0;              ///< 0: it has been closed, or is not accepted yet
  uint32_t shutdown = 0;          ///< kNoReceive, kNoSend
  std::vector<uint64_t> waiting;  ///< listening: who connected and is not accepted yet
  uint32_t backlog = 0;           ///< listening
  std::string path;               ///< sun_path as bound: a leading NUL for an abstract name
  dev_t file_device = 0;          ///< of the file, where the name is a path
  uint64_t file_inode = 0;
};

Result<std::vector<UnixSocketEntry>> list_unix_sockets();

/// "process 77 (nginx)": who has the socket of this inode open; "another process" when it cannot be
/// found.
std::string holder_of_socket(uint64_t inode);

}  // namespace fermata::engine
