#include "node-agent/engine/tcp_pairs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "common/try_again.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/obstacles.h"
#include "node-agent/engine/socket_diag.h"
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

Result<size_t> unsent_or_unacknowledged(int fd) {
  int bytes = 0;
  if (::ioctl(fd, SIOCOUTQ, &bytes) != 0) return errno_failure(errno, "SIOCOUTQ");
  return static_cast<size_t>(bytes);
}

bool listens_at(const TcpListener& listener, const InetAddress& address) {
  return listener.local.port() == address.port() &&
         (listener.local.is_wildcard() || listener.local.key() == address.key());
}

// Looks for the other ends of the connections of one capture.
class PairFinder {
 public:
  PairFinder(const LiveTcps& live, const std::vector<TcpListener>& listeners,
             const OutsideConnections& outside, TcpRecords& records)
      : live_(live), listeners_(listeners), outside_(outside), records_(records) {
    for (const auto& [id, one] : live_) ends_[{one.local.key(), one.remote.key()}] = id;
  }

  Result<std::vector<uint32_t>> run() {
    std::vector<uint32_t> alone;
    for (const auto& [id, one] : live_) {
      TcpSocket& tcp = *records_.at(id);
      tcp.set_fin_sent(has_sent_fin(one.state));
      const auto peer = ends_.find({one.remote.key(), one.local.key()});
      if (peer == ends_.end()) {
        alone.push_back(id);
      } else {
        tcp.set_peer_file(peer->second);
      }
    }
    if (!alone.empty() || outside_.allowed) {
      FERMATA_ASSIGN(all_, list_inet_sockets(IPPROTO_TCP));
    }
    for (const uint32_t id : alone) FERMATA_TRY_RESULT(obstacles_.note(place_alone(id)));
    FERMATA_TRY_RESULT(check_listeners());
    if (outside_.allowed) FERMATA_TRY_RESULT(check_others());
    FERMATA_TRY_RESULT(obstacles_.sum());
    return std::move(leaving_);
  }

 private:
  Status not_now(const std::string& why) {
    return obstacles_.note({Code::kBusy, fmt::format("{}{}", why, kTryAgain)});
  }

  // A socket without an open file may be of another pod on this host, too.
  bool is_ours(const InetSocket& socket) const {
    return outside_.group == 0 || socket.group == 0 || socket.group == outside_.group;
  }

  Status place_alone(uint32_t id) {
    const LiveTcp& one = live_.at(id);
    TcpSocket& tcp = *records_.at(id);
    const auto peer = std::find_if(all_.begin(), all_.end(), [&](const InetSocket& socket) {
      return socket.local.key() == one.remote.key() && socket.remote.key() == one.local.key();
    });
    const bool ended_by_peer = has_received_fin(one.state);
    if (peer == all_.end()) {
      if (!ended_by_peer || !one.remote.is_local()) return leaves(id);
      tcp.set_peer_closed(true);
      return Status::ok();
    }
    if (peer->inode == 0 && has_sent_fin(peer->state) && ended_by_peer) {
      tcp.set_peer_closed(true);
      return Status::ok();
    }
    if (peer->inode != 0 || !is_ours(*peer)) return leaves(id);
    const auto listener =
        std::find_if(listeners_.begin(), listeners_.end(),
                     [&](const TcpListener& each) { return listens_at(each, one.remote); });
    FERMATA_ASSIGN_STATUS(const size_t under_way, unsent_or_unacknowledged(one.probe.dup.get()));
    const size_t fin = one.state == kFinWait1 ? 1 : 0;
    const bool accepted_never = peer->state == kEstablished || peer->state == kCloseWait;
    // The kernel counts a FIN as one byte of the queue's length in this listing only when it is
    // not yet read.
    if (listener != listeners_.end() && accepted_never && under_way <= fin &&
        peer->receive_queue == 0) {
      tcp.set_state(TcpSocket::WAITING);
      tcp.set_waits_at(listener->file_id);
      ++waiting_[listener->file_id];
      return Status::ok();
    }
    return refuse_now(
        one.probe, fmt::format("the connection to {} is in the middle of being accepted or closed",
                               one.remote.text()));
  }

  Status leaves(uint32_t id) {
    const LiveTcp& one = live_.at(id);
    if (outside_.allowed) {
      leaving_.push_back(id);
      return Status::ok();
    }
    return refuse(one.probe, fmt::format("it is connected to {}, outside the job; only connections "
                                         "between processes of the job can be held",
                                         one.remote.text()));
  }

  Status check_listeners() {
    for (const TcpListener& listener : listeners_) {
      if (listener.queued <= waiting_[listener.file_id]) continue;
      FERMATA_TRY(not_now(listener.text +
                          ": a connection from outside the pod, or one that ended already, waits "
                          "to be accepted"));
    }
    return Status::ok();
  }

  // What has no file and would be missed by the other end: a connection that is being accepted, and
  // the last bytes of a closed one.
  Status check_others() {
    for (const InetSocket& socket : all_) {
      if (socket.inode != 0 || ends_.contains({socket.remote.key(), socket.local.key()})) continue;
      if (socket.state == kSynReceived) {
        const auto listener =
            std::find_if(listeners_.begin(), listeners_.end(),
                         [&](const TcpListener& each) { return listens_at(each, socket.local); });
        if (listener == listeners_.end()) continue;
        FERMATA_TRY(not_now(fmt::format("{}: a connection from {} is being made to it",
                                        listener->text, socket.remote.text())));
      }
      const bool has_more =
          socket.send_queue > 0 &&
          (socket.state == kFinWait1 || socket.state == kClosing || socket.state == kLastAck);
      if (has_more && outside_.group != 0 && socket.group == outside_.group) {
        FERMATA_TRY(not_now(fmt::format(
            "a process of the job has closed its connection from {} to {}, and the last of what it "
            "sent is still under way",
            socket.local.text(), socket.remote.text())));
      }
    }
    return Status::ok();
  }

  const LiveTcps& live_;
  const std::vector<TcpListener>& listeners_;
  const OutsideConnections& outside_;
  TcpRecords& records_;
  std::map<std::pair<std::string, std::string>, uint32_t> ends_;
  std::vector<InetSocket> all_;
  std::map<uint32_t, uint32_t> waiting_;
  std::vector<uint32_t> leaving_;
  Obstacles obstacles_;
};

// A direction with an empty send queue was complete in the receiver's queue before we looked at
// that queue, unless the last bytes arrived in between: then the queue is longer now.
Status check_nothing_moved(const LiveTcps& live, const TcpRecords& records) {
  for (const auto& [id, one] : live) {
    FERMATA_ASSIGN_STATUS(const size_t unread, unread_bytes(one.probe.dup.get()));
    if (unread != records.at(id)->received().size()) {
      return {Code::kBusy, "a TCP connection moved while it was read"};
    }
  }
  return Status::ok();
}

Status read_received(const LiveTcp& one, TcpSocket& tcp) {
  const int fd = one.probe.dup.get();
  FERMATA_ASSIGN_STATUS(std::string received, peek_stream(one.probe, fd));
  tcp.set_received(std::move(received));
  const int state = tcp_info_of(fd).tcpi_state;
  pollfd ready{fd, POLLRDHUP, 0};
  if (::poll(&ready, 1, 0) < 0) return errno_status(errno, one.probe.describe());
  tcp.set_receive_shut(!has_received_fin(state) && (ready.revents & POLLRDHUP) != 0);
  if (has_sent_fin(state) != tcp.fin_sent() || state == kTimeWait || state == kClose) {
    return {Code::kBusy, fmt::format("{}: the connection just ended", one.probe.describe())};
  }
  return Status::ok();
}

}  // namespace

Result<std::vector<uint32_t>> pair_ends(const LiveTcps& live,
                                        const std::vector<TcpListener>& listeners,
                                        const OutsideConnections& outside, TcpRecords& records) {
  return PairFinder(live, listeners, outside, records).run();
}

Status read_queues(const LiveTcps& live, TcpRecords& records) {
  std::vector<Direction> directions;
  std::vector<uint32_t> senders;
  for (const auto& [id, one] : live) {
    TcpSocket& tcp = *records.at(id);
    tcp.clear_to_send();
    if (tcp.peer_file() == 0) continue;
    const LiveTcp& peer = live.at(tcp.peer_file());
    // A FIN comes after every byte: who has it has all.
    if (has_received_fin(tcp_info_of(peer.probe.dup.get()).tcpi_state)) continue;
    FERMATA_ASSIGN_STATUS(const size_t queued, unsent_or_unacknowledged(one.probe.dup.get()));
    if (queued == 0) continue;
    Direction direction;
    direction.sender = one.probe.dup.get();
    direction.receiver = peer.probe.dup.get();
    direction.fin_queued = tcp.fin_sent();
    directions.push_back(std::move(direction));
    senders.push_back(id);
  }
  FERMATA_TRY(read_send_queues(directions));
  for (const auto& [id, one] : live) FERMATA_TRY(read_received(one, *records.at(id)));
  for (size_t i = 0; i < directions.size(); ++i) {
    TcpSocket& sender = *records.at(senders[i]);
    if (records.at(sender.peer_file())->received().size() != directions[i].receiver_queue) {
      return {Code::kBusy, "a TCP connection moved while it was read"};
    }
    sender.set_to_send(std::move(directions[i].unreceived));
  }
  return check_nothing_moved(live, records);
}

Status close_sides(int fd, const TcpSocket& tcp) {
  if (tcp.fin_sent() && ::shutdown(fd, SHUT_WR) != 0) return errno_status(errno, "shutdown");
  if (tcp.receive_shut() && ::shutdown(fd, SHUT_RD) != 0) return errno_status(errno, "shutdown");
  return Status::ok();
}

namespace {

Status finish_end(int fd, const TcpSocket& tcp) {
  FERMATA_TRY(make_room(fd, tcp.to_send().size(), 0));
  FERMATA_TRY(send_all(fd, tcp.to_send()));
  return apply_options_late(fd, tcp.options());
}

}  // namespace

Status TcpPairs::connect(const image::File& file, RebuildContext& context) {
  if (file.tcp().state() == TcpSocket::WAITING) return connect_to_listener(file, context);
  if (!connected_.insert(file.id()).second) return Status::ok();
  return connect_again(file, context);
}

Status TcpPairs::connect_to_listener(const image::File& file, RebuildContext& context) const {
  const TcpSocket& tcp = file.tcp();
  const int fd = context.created(file.id());
  FERMATA_TRY(check_inside(file));
  FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::local_of(fd));
  FERMATA_ASSIGN_STATUS(const InetAddress then, InetAddress::parse(tcp.remote()));
  FERMATA_ASSIGN_STATUS(InetAddress remote, context.network().address_here(then));
  FERMATA_ASSIGN_STATUS(const InetAddress listener,
                        InetAddress::local_of(context.created(tcp.waits_at())));
  remote = remote.with_port(listener.port());
  FERMATA_TRY(set_status_flags(fd, file.flags() & ~static_cast<uint32_t>(O_NONBLOCK)));
  timeval limit{3, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  FERMATA_TRY(with_patience(local, &remote, [&] {
    if (::connect(fd, remote.get(), remote.length()) == 0) return Status::ok();
    return errno_status(errno, fmt::format("connecting to {} again", remote.text()));
  }));
  limit = {};
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  FERMATA_TRY(apply_options_late(fd, tcp.options()));
  FERMATA_TRY(set_status_flags(fd, file.flags()));
  return close_sides(fd, tcp);
}

// An image says whom to connect to; it must be a socket of the same image.
Status TcpPairs::check_inside(const image::File& file) const {
  const TcpSocket& tcp = file.tcp();
  if (tcp.local().empty() || tcp.remote().empty()) {
    return {Code::kDamaged, "a TCP connection without addresses"};
  }
  FERMATA_ASSIGN_STATUS(const InetAddress here, InetAddress::parse(tcp.local()));
  FERMATA_ASSIGN_STATUS(const InetAddress there, InetAddress::parse(tcp.remote()));
  if (tcp.state() == TcpSocket::WAITING) {
    const auto found = files_.find(tcp.waits_at());
    if (found != files_.end() && found->second->tcp().state() == TcpSocket::LISTENING) {
      TcpListener listener;
      FERMATA_ASSIGN_STATUS(listener.local, InetAddress::parse(found->second->tcp().local()));
      if (!listener.local.empty() && listens_at(listener, there)) return Status::ok();
    }
    return {Code::kDamaged, "a TCP connection to a listener that is not in the image"};
  }
  if (tcp.peer_closed()) return Status::ok();
  const auto found = files_.find(tcp.peer_file());
  if (found != files_.end() && found->first != file.id()) {
    const TcpSocket& peer = found->second->tcp();
    FERMATA_ASSIGN_STATUS(const InetAddress peer_here, InetAddress::parse(peer.local()));
    FERMATA_ASSIGN_STATUS(const InetAddress peer_there, InetAddress::parse(peer.remote()));
    if (peer.state() == TcpSocket::CONNECTED && peer.peer_file() == file.id() &&
        here.key() == peer_there.key() && there.key() == peer_here.key()) {
      return Status::ok();
    }
  }
  return {Code::kDamaged, "a TCP connection whose other end is not in the image"};
}

Status TcpPairs::connect_again(const image::File& file, RebuildContext& context) {
  const TcpSocket& tcp = file.tcp();
  FERMATA_TRY(check_inside(file));
  ConnectionEnd here{context.created(file.id()), {}, tcp.received()};
  FERMATA_ASSIGN_STATUS(here.local, InetAddress::local_of(here.fd));
  ConnectionEnd there;
  UniqueFd closed_end;
  const TcpSocket* peer = nullptr;
  if (tcp.peer_closed()) {
    FERMATA_ASSIGN_STATUS(const InetAddress then, InetAddress::parse(tcp.remote()));
    FERMATA_ASSIGN_STATUS(there.local, context.network().address_here(then));
    closed_end.reset(::socket(there.local.family(), SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
    if (!closed_end) return errno_status(errno, "a TCP socket");
    there.fd = closed_end.get();
    FERMATA_TRY(with_patience(there.local, &here.local,
                              [&] { return bind_beside_others(there.fd, there.local); }));
  } else {
    const image::File& other = *files_.at(tcp.peer_file());
    connected_.insert(other.id());
    peer = &other.tcp();
    there.fd = context.created(other.id());
    there.received = peer->received();
    // As the peer has it: the family may differ (IPv4-mapped addresses).
    FERMATA_ASSIGN_STATUS(there.local, InetAddress::local_of(there.fd));
  }
  FERMATA_TRY(with_patience(here.local, &there.local, [&] { return connect_pair(here, there); }));
  FERMATA_TRY(finish_end(here.fd, tcp));
  if (peer != nullptr) FERMATA_TRY(finish_end(there.fd, *peer));
  FERMATA_TRY(close_sides(here.fd, tcp));
  if (peer != nullptr) FERMATA_TRY(close_sides(there.fd, *peer));
  return Status::ok();
}

}  // namespace fermata::engine
