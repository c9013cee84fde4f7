#include "node-agent/engine/wire_address.h"

#include <sys/socket.h>

namespace fermata::engine {
namespace {

Result<WireEnds> by_name(int fd) {
  WireEnds ends;
  FERMATA_ASSIGN(ends.local, InetAddress::local_of(fd));
  FERMATA_ASSIGN(ends.remote, InetAddress::remote_of(fd));
  if (ends.local.port() == 0) ends.local = {};
  return ends;
}

}  // namespace

Result<WireEnds> WireAddresses::of(int fd, const OutsideConnections& outside) {
  if (!outside.allowed) return by_name(fd);
  if (!listed_) {
    FERMATA_ASSIGN(std::vector<InetSocket> all, list_inet_sockets(protocol_));
    for (InetSocket& socket : all) sockets_[socket.cookie] = socket;
    listed_ = true;
  }
  uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0) {
    return errno_failure(errno, "SO_COOKIE");
  }
  const auto found = sockets_.find(cookie);
  // The kernel does not list what is neither bound nor connected, nor, before 6.8, TCP sockets that
  // are bound only.
  if (found == sockets_.end()) return by_name(fd);
  WireEnds ends{found->second.local, found->second.remote};
  if (ends.local.port() == 0) ends.local = {};
  if (ends.remote.port() == 0) ends.remote = {};
  return ends;
}

}  // namespace fermata::engine
