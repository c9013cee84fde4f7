#include "node-agent/engine/validate_sockets.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include "node-agent/engine/file_support.h"
#include "node-agent/engine/inet_address.h"

namespace fermata::engine {
namespace {

using image::TcpSocket;

constexpr size_t kMostQueue = size_t{1} << 30;
constexpr uint32_t kMostWindow = 1U << 30;  // 65535 << 14 (RFC 7323)
constexpr uint32_t kMostScale = 14;
constexpr uint32_t kLeastSegment = 48;  // TCP_MIN_MSS
constexpr uint32_t kMostSegment = 65535;

Status wrong(std::string_view what) {
  return {Code::kDamaged, fmt::format("the image is not sound: {}", what)};
}

Status check_address(const std::string& bytes, bool ipv6) {
  FERMATA_ASSIGN_STATUS(const InetAddress address, InetAddress::parse(bytes));
  if (!address.empty() && address.family() != (ipv6 ? AF_INET6 : AF_INET)) {
    return wrong("a socket has an address of another family");
  }
  return Status::ok();
}

Status check_connection(const TcpSocket& tcp) {
  FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::parse(tcp.local()));
  FERMATA_ASSIGN_STATUS(const InetAddress remote, InetAddress::parse(tcp.remote()));
  for (const InetAddress* end : {&local, &remote}) {
    if (end->empty() || end->port() == 0 || end->is_wildcard()) {
      return wrong(fmt::format("a TCP connection from {} to {}", local.text(), remote.text()));
    }
  }
  return Status::ok();
}

Status check_wire(const TcpSocket& tcp) {
  const image::TcpWire& wire = tcp.wire();
  if (tcp.state() != TcpSocket::CONNECTED || tcp.peer_file() != 0 || tcp.peer_closed()) {
    return wrong("a TCP connection with another pod that ends in this one, too");
  }
  if (wire.sent() > tcp.to_send().size()) {
    return wrong(
        fmt::format("a TCP connection has sent {} bytes of {}", wire.sent(), tcp.to_send().size()));
  }
  if (wire.segment() < kLeastSegment || wire.segment() > kMostSegment) {
    return wrong(fmt::format("a TCP segment of {} bytes", wire.segment()));
  }
  if (wire.send_scale() > kMostScale || wire.receive_scale() > kMostScale) {
    return wrong(
        fmt::format("TCP window scales {} and {}", wire.send_scale(), wire.receive_scale()));
  }
  for (const uint32_t window : {wire.send_window(), wire.largest_window(), wire.receive_window()}) {
    if (window > kMostWindow) return wrong(fmt::format("a TCP window of {} bytes", window));
  }
  return Status::ok();
}

Status check_tcp(const TcpSocket& tcp) {
  if (!TcpSocket::State_IsValid(tcp.state())) {
    return wrong(fmt::format("TCP state {}", static_cast<int>(tcp.state())));
  }
  FERMATA_TRY(check_address(tcp.local(), tcp.ipv6()));
  FERMATA_TRY(check_address(tcp.remote(), tcp.ipv6()));
  if (tcp.received().size() > kMostQueue || tcp.to_send().size() > kMostQueue) {
    return wrong("a TCP queue of more than a GiB");
  }
  if (tcp.has_wire()) FERMATA_TRY(check_wire(tcp));
  const bool connected = tcp.state() == TcpSocket::CONNECTED || tcp.state() == TcpSocket::WAITING ||
                         tcp.state() == TcpSocket::CONNECTING;
  return connected ? check_connection(tcp) : Status::ok();
}

Status check_udp(const image::UdpSocket& udp) {
  FERMATA_TRY(check_address(udp.local(), udp.ipv6()));
  FERMATA_TRY(check_address(udp.remote(), udp.ipv6()));
  for (const image::SocketMessage& message : udp.messages()) {
    FERMATA_TRY(check_address(message.source(), udp.ipv6()));
    if (message.data().size() > kMostQueue) return wrong("a datagram of more than a GiB");
  }
  return Status::ok();
}

}  // namespace

Status validate_sockets(const image::PodObjects& objects) {
  for (const image::File& file : objects.files()) {
    Status status;
    if (file.has_tcp()) status = check_tcp(file.tcp());
    if (file.has_udp()) status = check_udp(file.udp());
    if (!status) return status.within(holder_of(file));
  }
  return Status::ok();
}

}  // namespace fermata::engine
