#include "node-agent/engine/tcp_outside.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "node-agent/engine/file_support.h"
#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/tcp_connect.h"
#include "node-agent/engine/tcp_live.h"
#include "node-agent/engine/tcp_ports.h"
#include "node-agent/engine/tcp_repair.h"
#include "node-agent/engine/tcp_states.h"

namespace fermata::engine {
namespace {

using image::TcpSocket;

constexpr uint32_t kMicrosecondStamps = 1;  // the lowest bit of TCP_TIMESTAMP, Linux 6.7
constexpr unsigned kUsecOption = 64;        // TCPI_OPT_USEC_TS

Status fill_wire(const LiveTcp& live, WireEnd end, TcpSocket& tcp) {
  const int fd = live.probe.dup.get();
  const tcp_info info = tcp_info_of(fd);
  if (end.receive_queue != tcp.received().size() ||
      has_sent_fin(info.tcpi_state) != tcp.fin_sent()) {
    return {Code::kBusy, "a TCP connection moved while it was read"};
  }
  image::TcpWire& wire = *tcp.mutable_wire();
  const uint32_t fin = tcp.fin_sent() ? 1 : 0;
  const auto length = static_cast<uint32_t>(end.queue.size());
  // A FIN that was never sent is the last of what is unsent.
  const uint32_t unsent = std::min(length, end.unsent - std::min(end.unsent, fin));
  wire.set_send_first(end.write_next - fin - length);
  wire.set_sent(length - unsent);
  tcp.set_to_send(std::move(end.queue));
  wire.set_fin_received(has_received_fin(info.tcpi_state));
  wire.set_receive_first(end.receive_next - (wire.fin_received() ? 1 : 0) - end.receive_queue);
  wire.set_segment(end.segment);
  if ((info.tcpi_options & TCPI_OPT_WSCALE) != 0) {
    wire.set_send_scale(info.tcpi_snd_wscale);
    wire.set_receive_scale(info.tcpi_rcv_wscale);
  }
  wire.set_sack((info.tcpi_options & TCPI_OPT_SACK) != 0);
  wire.set_timestamps((info.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0);
  if (wire.timestamps()) {
    int stamp = 0;
    if (const int error = get_tcp_int(fd, TCP_TIMESTAMP, stamp); error != 0) {
      return errno_status(error, "TCP_TIMESTAMP");
    }
    // Newer kernels read a meaning into the lowest bit that older ones do not give it.
    const bool in_microseconds = (info.tcpi_options & kUsecOption) != 0;
    const auto value = static_cast<uint32_t>(stamp) & ~kMicrosecondStamps;
    wire.set_timestamp(value | (in_microseconds ? kMicrosecondStamps : 0));
  }
  wire.set_window_update(end.window.snd_wl1);
  wire.set_send_window(end.window.snd_wnd);
  wire.set_largest_window(end.window.max_window);
  wire.set_receive_window(end.window.rcv_wnd);
  wire.set_receive_update(end.window.rcv_wup);
  return Status::ok();
}

// Goes on in the background; what becomes of it the program will see.
Status connect_anew(int fd, const InetAddress& remote, uint32_t flags) {
  FERMATA_TRY(set_status_flags(fd, flags | O_NONBLOCK));
  const bool begun = ::connect(fd, remote.get(), remote.length()) == 0 || errno == EINPROGRESS ||
                     errno == ECONNREFUSED || errno == EHOSTUNREACH || errno == ENETUNREACH;
  if (!begun) return errno_status(errno, fmt::format("connecting to {} again", remote.text()));
  return set_status_flags(fd, flags);
}

}  // namespace

Status read_leaving(const std::vector<uint32_t>& leaving, const LiveTcps& live,
                    TcpRecords& records) {
  std::vector<WireEnd> ends(leaving.size());
  for (size_t i = 0; i < leaving.size(); ++i) ends[i].fd = live.at(leaving[i]).probe.dup.get();
  FERMATA_TRY(read_wire_ends(ends));
  for (size_t i = 0; i < leaving.size(); ++i) {
    FERMATA_TRY(fill_wire(live.at(leaving[i]), std::move(ends[i]), *records.at(leaving[i])));
  }
  return Status::ok();
}

image::OutsideConnection outside_connection(const LiveTcp& live, std::string holder) {
  image::OutsideConnection connection;
  connection.set_local(live.local.unmapped().bytes());
  connection.set_remote(live.remote.unmapped().bytes());
  connection.set_holder(std::move(holder));
  connection.set_state(tcp_state_name(live.state));
  return connection;
}

Status TcpOutside::sever(const TcpSocket& tcp, int fd, bool reset) {
  ConnectionEnd here{fd, {}, tcp.received()};
  FERMATA_ASSIGN_STATUS(here.local, InetAddress::local_of(fd));
  const InetAddress near = here.local.unmapped();
  ConnectionEnd there;
  there.local = near.family() == AF_INET ? InetAddress("\x7f\0\0\1", AF_INET, 0)
                                         : InetAddress(&in6addr_loopback, AF_INET6, 0);
  UniqueFd other(::socket(there.local.family(), SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
  if (!other || ::bind(other.get(), there.local.get(), there.local.length()) != 0) {
    return errno_status(errno, "a socket for the other end of an ended connection");
  }
  there.fd = other.get();
  FERMATA_ASSIGN_STATUS(there.local, InetAddress::local_of(there.fd));
  FERMATA_TRY(connect_pair(here, there));
  severed_.push_back({&tcp, fd, std::move(other), reset});
  return Status::ok();
}

Status TcpOutside::connect(const image::File& file, int fd, const NetworkMap& network) {
  const TcpSocket& tcp = file.tcp();
  FERMATA_ASSIGN_STATUS(const InetAddress then, InetAddress::parse(tcp.remote()));
  const std::optional<InetAddress> now = network.now(IPPROTO_TCP, then);
  if (tcp.state() == TcpSocket::CONNECTING) {
    if (!now) return sever(tcp, fd, /*reset=*/true);
    FERMATA_TRY(connect_anew(fd, *now, file.flags()));
    return apply_options_late(fd, tcp.options());
  }
  if (now) {
    FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::local_of(fd));
    FERMATA_TRY(with_patience(local, &*now, [&] { return connect_wire(fd, *now, tcp); }));
    ends_.push_back({&tcp, fd});
    // The end of file, before the FIN has come again.
    if ((tcp.wire().fin_received() || tcp.receive_shut()) && ::shutdown(fd, SHUT_RD) != 0) {
      return errno_status(errno, "shutdown");
    }
    return Status::ok();
  }
  // Closed at the other end: whoever that was will not be missed.
  if (tcp.wire().fin_received()) return sever(tcp, fd, /*reset=*/false);
  if (network.reset_outside()) return sever(tcp, fd, /*reset=*/true);
  return {Code::kUnsupported,
          fmt::format("it was connected to {}, which is no process of the job: let such "
                      "connections end with ECONNRESET (--external-tcp reset), or restart a "
                      "checkpoint without it",
                      then.text())};
}

Status TcpOutside::begin() {
  for (const End& end : ends_) {
    FERMATA_TRY(release_wire(end.fd, *end.tcp));
    if (end.tcp->fin_sent() && ::shutdown(end.fd, SHUT_WR) != 0 && errno != ENOTCONN) {
      return errno_status(errno, "shutdown");
    }
    FERMATA_TRY(apply_options_late(end.fd, end.tcp->options()));
  }
  for (Severed& severed : severed_) {
    FERMATA_TRY(apply_options_late(severed.fd, severed.tcp->options()));
    if (severed.reset) {
      const linger at_once{1, 0};
      ::setsockopt(severed.other_end.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    } else {
      FERMATA_TRY(close_sides(severed.fd, *severed.tcp));
    }
    severed.other_end.reset();
  }
  ends_.clear();
  severed_.clear();
  return Status::ok();
}

}  // namespace fermata::engine
