#include "node-agent/engine/tcp_connect.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <vector>

#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/tcp_repair.h"

namespace fermata::engine {
namespace {

// TCP option kinds, as TCP_REPAIR_OPTIONS takes them (RFC 9293, 7323, 2018).
constexpr uint32_t kMaxSegment = 2;
constexpr uint32_t kWindowScale = 3;
constexpr uint32_t kSackPermitted = 4;
constexpr uint32_t kTimestamps = 8;
// Both ends of a pair use it: windows up to 64 MiB.
constexpr uint32_t kScale = 10;
constexpr int kScaleShift = 16;

uint32_t random_sequence() {
  uint32_t value = 0;
  if (::getrandom(&value, sizeof value, GRND_NONBLOCK) != sizeof value) value = 0x5eed;
  return value;
}

// Whether sequence number a comes after b.
bool is_after(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) > 0; }

// Sequence numbers, connect: in this order, as numbers can be set only while the socket is closed.
Status establish(int fd, const InetAddress& local, const InetAddress& remote, uint32_t send_next,
                 uint32_t receive_first) {
  FERMATA_TRY(set_sequence(fd, local, RepairQueue::kReceive, receive_first));
  FERMATA_TRY(set_sequence(fd, local, RepairQueue::kSend, send_next));
  // The other end may have it in another form.
  const InetAddress target = remote.unmapped().for_family(local.family());
  if (::connect(fd, target.get(), target.length()) != 0) {
    return tcp_status(errno, fmt::format("connection to {}", remote.text()), local);
  }
  return Status::ok();
}

Status set_options(int fd, const InetAddress& local, const std::vector<tcp_repair_opt>& options) {
  const auto size = static_cast<socklen_t>(options.size() * sizeof options.front());
  if (::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(), size) == 0) {
    return Status::ok();
  }
  return tcp_status(errno, "options", local);
}

// What the two ends would have agreed upon when they connected.
Status agree_on_options(const ConnectionEnd& end) {
  const bool v4 = end.local.family() == AF_INET;
  int mtu = v4 ? socket_option(end.fd, IPPROTO_IP, IP_MTU)
               : socket_option(end.fd, IPPROTO_IPV6, IPV6_MTU);
  // An IPv6 socket with IPv4-mapped addresses has no IPV6_MTU.
  if (mtu < 0) mtu = socket_option(end.fd, IPPROTO_IP, IP_MTU);
  if (mtu < 0) return tcp_status(errno, "path MTU", end.local);
  const auto segment = static_cast<uint32_t>(std::clamp(mtu - (v4 ? 40 : 60), 536, 65495));
  return set_options(end.fd, end.local,
                     {{kMaxSegment, segment},
                      {kWindowScale, kScale | kScale << kScaleShift},
                      {kSackPermitted, 0},
                      {kTimestamps, 0}});
}

Status push_received(int fd, const InetAddress& local, std::string_view received) {
  if (received.empty()) return Status::ok();
  FERMATA_TRY(make_room(fd, 0, received.size()));
  return fill_queue(fd, local, RepairQueue::kReceive, received);
}

Result<tcp_repair_window> window_of(const ConnectionEnd& end) {
  tcp_repair_window window{};
  socklen_t size = sizeof window;
  if (::getsockopt(end.fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &size) != 0) {
    return Failure(tcp_status(errno, "window", end.local));
  }
  // No more than there is room for; the rest is offered when the program reads.
  const int buffer = std::max(0, socket_option(end.fd, SOL_SOCKET, SO_RCVBUF));
  const auto room = static_cast<uint32_t>(buffer) / 2;
  const auto used = static_cast<uint32_t>(end.received.size());
  window.rcv_wnd = std::min(window.rcv_wnd, room > used ? room - used : 0);
  return window;
}

Status set_window(int fd, const InetAddress& local, const tcp_repair_window& window) {
  if (::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof window) == 0) {
    return Status::ok();
  }
  return tcp_status(errno, "window", local);
}

Status set_windows(const ConnectionEnd& end, tcp_repair_window own, const tcp_repair_window& peer,
                   uint32_t receive_next) {
  own.rcv_wup = receive_next;
  own.snd_wl1 = receive_next;
  own.snd_wnd = peer.rcv_wnd;
  own.max_window = std::max(peer.rcv_wnd, own.max_window);
  return set_window(end.fd, end.local, own);
}

Status join(const ConnectionEnd& a, const ConnectionEnd& b) {
  const uint32_t sent_by_a = random_sequence();
  const uint32_t sent_by_b = random_sequence();
  const auto queued_at_a = static_cast<uint32_t>(a.received.size());
  const auto queued_at_b = static_cast<uint32_t>(b.received.size());
  FERMATA_TRY(establish(a.fd, a.local, b.local, sent_by_a, sent_by_b - queued_at_a));
  FERMATA_TRY(establish(b.fd, b.local, a.local, sent_by_b, sent_by_a - queued_at_b));
  for (const ConnectionEnd* end : {&a, &b}) {
    FERMATA_TRY(agree_on_options(*end));
    FERMATA_TRY(push_received(end->fd, end->local, end->received));
  }
  FERMATA_ASSIGN_STATUS(const tcp_repair_window window_a, window_of(a));
  FERMATA_ASSIGN_STATUS(const tcp_repair_window window_b, window_of(b));
  FERMATA_TRY(set_windows(a, window_a, window_b, sent_by_b));
  return set_windows(b, window_b, window_a, sent_by_a);
}

Status keep_options(int fd, const InetAddress& local, const image::TcpWire& wire) {
  std::vector<tcp_repair_opt> options{
      {kMaxSegment, wire.segment()},
      {kWindowScale, wire.send_scale() | wire.receive_scale() << kScaleShift}};
  if (wire.sack()) options.push_back({kSackPermitted, 0});
  if (wire.timestamps()) options.push_back({kTimestamps, 0});
  FERMATA_TRY(set_options(fd, local, options));
  if (!wire.timestamps()) return Status::ok();
  const int error = set_tcp_int(fd, TCP_TIMESTAMP, static_cast<int>(wire.timestamp()));
  return error == 0 ? Status::ok() : tcp_status(error, "timestamp", local);
}

// As it was, but for a FIN that was received: it comes again, so nothing may count it.
Status keep_window(int fd, const InetAddress& local, const image::TcpSocket& tcp) {
  const image::TcpWire& wire = tcp.wire();
  const uint32_t next = wire.receive_first() + static_cast<uint32_t>(tcp.received().size());
  tcp_repair_window window{};
  window.snd_wl1 = wire.window_update();
  window.snd_wnd = wire.send_window();
  window.max_window = std::max(wire.largest_window(), wire.send_window());
  window.rcv_wnd = wire.receive_window();
  window.rcv_wup = wire.receive_update();
  if (is_after(window.rcv_wup, next)) {
    window.rcv_wnd += window.rcv_wup - next;
    window.rcv_wup = next;
  }
  if (is_after(window.snd_wl1, next)) window.snd_wl1 = next;
  return set_window(fd, local, window);
}

Status stand(int fd, const InetAddress& local, const InetAddress& remote,
             const image::TcpSocket& tcp) {
  const image::TcpWire& wire = tcp.wire();
  FERMATA_TRY(establish(fd, local, remote, wire.send_first(), wire.receive_first()));
  FERMATA_TRY(keep_options(fd, local, wire));
  FERMATA_TRY(push_received(fd, local, tcp.received()));
  return keep_window(fd, local, tcp);
}

}  // namespace

Status connect_pair(const ConnectionEnd& a, const ConnectionEnd& b) {
  const RepairMode repair_a(a.fd);
  if (repair_a.error() != 0) return tcp_status(repair_a.error(), "TCP_REPAIR", a.local);
  const RepairMode repair_b(b.fd);
  if (repair_b.error() != 0) return tcp_status(repair_b.error(), "TCP_REPAIR", b.local);
  Status status = join(a, b);
  if (!status) {
    disconnect_silently(a.fd);
    disconnect_silently(b.fd);
  }
  return status;
}

Status connect_wire(int fd, const InetAddress& remote, const image::TcpSocket& tcp) {
  FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::local_of(fd));
  const int reuse = socket_option(fd, SOL_SOCKET, SO_REUSEADDR);
  if (const int error = set_tcp_int(fd, TCP_REPAIR, TCP_REPAIR_ON); error != 0) {
    return tcp_status(error, "TCP_REPAIR", local);
  }
  Status status = stand(fd, local, remote, tcp);
  if (!status) {
    disconnect_silently(fd);
    leave_repair(fd, reuse);
  }
  return status;
}

Status release_wire(int fd, const image::TcpSocket& tcp) {
  FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::local_of(fd));
  const std::string_view all = tcp.to_send();
  const std::string_view sent = all.substr(0, tcp.wire().sent());
  FERMATA_TRY(make_room(fd, all.size(), 0));
  Status status = fill_queue(fd, local, RepairQueue::kSend, sent);
  if (const int error = set_tcp_int(fd, TCP_REPAIR, TCP_REPAIR_OFF); status && error != 0) {
    status = tcp_status(error, "TCP_REPAIR", local);
  }
  if (status) status = send_all(fd, all.substr(sent.size()));
  const int error = status.error_number();
  return error == EPIPE || error == ECONNRESET ? Status::ok() : status;
}

Status send_all(int fd, std::string_view bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t n = ::send(fd, bytes.data() + at, bytes.size() - at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n <= 0) return errno_status(n == 0 ? EIO : errno, "filling a TCP queue");
    at += static_cast<size_t>(n);
  }
  return Status::ok();
}

}  // namespace fermata::engine
