// Steps that all socket kinds share: reading queues without consuming them, and making sockets in
// the pod's processes, so that the kernel counts them to the pod (cgroup, SO_PEERCRED). Tracer's
// thread.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/engine/file_kind.h"

namespace fermata::engine {

/// An int option of a socket; -1 when it has none of this name.
int socket_option(int fd, int level, int name);

/// Bytes that can be read at once (SIOCINQ).
Result<size_t> unread_bytes(int fd);

/// What is unread of a stream. kCannotHold for what is not plain bytes (descriptors under way).
Result<std::string> peek_stream(const FileProbe& probe, int fd);

struct QueuedMessage {
  std::string data;
  std::string source;  ///< sockaddr; empty: unnamed
  pid_t sender = 0;    ///< host PID, where the receiver asks for credentials
};

/// The unread messages of a datagram or seqpacket socket, in order. Sets SO_PEEK_OFF for the time
/// of the reading: were we killed in between, only a later MSG_PEEK of the program would notice.
Result<std::vector<QueuedMessage>> peek_messages(const FileProbe& probe, int fd);

/// socket(2) made by process `vpid`; our descriptor of it, and none is left there.
Result<UniqueFd> socket_in_pod(RebuildContext& context, int vpid, int domain, int type,
                               int protocol);

struct SocketPair {
  UniqueFd first;
  UniqueFd second;
};
Result<SocketPair> socketpair_in_pod(RebuildContext& context, int vpid, int domain, int type);

}  // namespace fermata::engine
