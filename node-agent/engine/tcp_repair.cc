#include "node-agent/engine/tcp_repair.h"

#include <fmt/format.h>

#include <algorithm>

namespace fermata::engine {
namespace {

int get_reuse(int fd) {
  int value = 0;
  socklen_t size = sizeof value;
  ::getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, &size);
  return value;
}

}  // namespace

int set_tcp_int(int fd, int name, int value) {
  return ::setsockopt(fd, IPPROTO_TCP, name, &value, sizeof value) == 0 ? 0 : errno;
}

int get_tcp_int(int fd, int name, int& value) {
  socklen_t size = sizeof value;
  return ::getsockopt(fd, IPPROTO_TCP, name, &value, &size) == 0 ? 0 : errno;
}

int leave_repair(int fd, int reuse) {
  set_tcp_int(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
  int error = set_tcp_int(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
  if (error != 0) error = set_tcp_int(fd, TCP_REPAIR, TCP_REPAIR_OFF);
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  return error;
}

RepairMode::RepairMode(int fd) : fd_(fd), reuse_(get_reuse(fd)) {
  error_ = set_tcp_int(fd_, TCP_REPAIR, TCP_REPAIR_ON);
}

void RepairMode::leave() {
  if (fd_ >= 0 && error_ == 0) leave_repair(fd_, reuse_);
  fd_ = -1;
}

Status tcp_status(int error, std::string_view what, const InetAddress& local) {
  return errno_status(error, fmt::format("{} of TCP socket {}", what, local.text()));
}

Status set_sequence(int fd, const InetAddress& local, RepairQueue queue, uint32_t sequence) {
  int error = set_tcp_int(fd, TCP_REPAIR_QUEUE, static_cast<int>(queue));
  if (error == 0) error = set_tcp_int(fd, TCP_QUEUE_SEQ, static_cast<int>(sequence));
  return error == 0 ? Status::ok() : tcp_status(error, "sequence number", local);
}

Status fill_queue(int fd, const InetAddress& local, RepairQueue queue, std::string_view bytes) {
  const char* name = queue == RepairQueue::kReceive ? "receive queue" : "send queue";
  if (const int error = set_tcp_int(fd, TCP_REPAIR_QUEUE, static_cast<int>(queue)); error != 0) {
    return tcp_status(error, name, local);
  }
  constexpr size_t kAtOnce = 64 << 10;
  for (size_t at = 0; at < bytes.size();) {
    const size_t size = std::min(kAtOnce, bytes.size() - at);
    const ssize_t n = ::send(fd, bytes.data() + at, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) return tcp_status(n == 0 ? EIO : errno, name, local);
    at += static_cast<size_t>(n);
  }
  set_tcp_int(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
  return Status::ok();
}

void disconnect_silently(int fd) {
  const sockaddr nowhere{AF_UNSPEC, {}};
  int ignored = 0;
  socklen_t size = sizeof ignored;
  ::connect(fd, &nowhere, sizeof nowhere);
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &ignored, &size);
}

Status bind_beside_others(int fd, const InetAddress& address) {
  const RepairMode repair(fd);
  if (repair.error() != 0) return errno_status(repair.error(), "TCP_REPAIR");
  if (::bind(fd, address.get(), address.length()) != 0) {
    return errno_status(errno, fmt::format("bind to {}", address.text()));
  }
  return Status::ok();
}

}  // namespace fermata::engine
