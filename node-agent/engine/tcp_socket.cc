// TCP sockets whose connections stay inside the pod: new, bound, listening, connected, half closed,
// ended.
//
// Both ends of a connection are captured at one cut and rebuilt together, so nothing of the wire is
// recorded: no sequence numbers, windows or timers. What counts is the stream in each direction,
// and it is in three parts: what the receiver has read, what waits in the receiver's queue (read by
// MSG_PEEK), and what the sender wrote and the receiver's queue lacks. The third is mostly empty;
// where it may not be, tcp_repair reads it. A rebuild connects both ends by repair mode with the
// same addresses, fills the receive queues, and sends the third part.
//
// Where an end has no open file: closed by its program (the other end has seen, or will see, end of
// file), or connected and not accepted yet. The second is connected to the listener again, for
// real.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/inet_address.h"
#include "node-agent/engine/socket_diag.h"
#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/tcp_repair.h"

namespace fermata::engine {
namespace {

using image::TcpSocket;

// enum of <netinet/tcp.h>, which cannot be included beside <linux/tcp.h>.
enum TcpState : int {
  kEstablished = 1,
  kSynSent,
  kSynReceived,
  kFinWait1,
  kFinWait2,
  kTimeWait,
  kClose,
  kCloseWait,
  kLastAck,
  kListen,
  kClosing
};

constexpr auto kAddressPatience = std::chrono::seconds(3);
constexpr auto kAddressPause = std::chrono::milliseconds(50);

bool has_sent_fin(int state) {
  return state == kFinWait1 || state == kFinWait2 || state == kClosing || state == kLastAck;
}
bool has_received_fin(int state) {
  return state == kCloseWait || state == kLastAck || state == kClosing;
}

tcp_info info_of(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
  return info;
}

Result<size_t> unsent_or_unacknowledged(int fd) {
  int bytes = 0;
  if (::ioctl(fd, SIOCOUTQ, &bytes) != 0) return errno_failure(errno, "SIOCOUTQ");
  return static_cast<size_t>(bytes);
}

// A connected socket while the capture runs.
struct Live {
  FileProbe probe;  // with a descriptor of its own
  int state = 0;
  std::string local;  // InetAddress::key()
  std::string remote;
};

FileProbe copy_of(const FileProbe& probe) {
  FileProbe copy;
  copy.pid = probe.pid;
  copy.vpid = probe.vpid;
  copy.fd = probe.fd;
  copy.link = probe.link;
  copy.status = probe.status;
  copy.dup.reset(::fcntl(probe.dup.get(), F_DUPFD_CLOEXEC, 0));
  return copy;
}

class TcpSocketKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    if (!S_ISSOCK(probe.status.st_mode)) return false;
    const int fd = probe.dup.get();
    const int family = socket_option(fd, SOL_SOCKET, SO_DOMAIN);
    return (family == AF_INET || family == AF_INET6) &&
           socket_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM &&
           socket_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP;
  }

  Status capture(const FileProbe& probe, CaptureContext&, image::File& out) override {
    const int fd = probe.dup.get();
    TcpSocket& tcp = *out.mutable_tcp();
    tcp.set_ipv6(socket_option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6);
    FERMATA_TRY(capture_options(fd, *tcp.mutable_options()));
    FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::local_of(fd));
    if (local.port() != 0) tcp.set_local(local.bytes());
    const tcp_info info = info_of(fd);
    switch (info.tcpi_state) {
      case kListen:
        tcp.set_state(TcpSocket::LISTENING);
        tcp.set_backlog(
            static_cast<int32_t>(info.tcpi_sacked));  // tcp(7): of a listener, the backlog
        listeners_.push_back({local.key(), local.is_wildcard(), local.port(), out.id(),
                              info.tcpi_unacked, probe.describe()});
        return Status::ok();
      case kClose:
        return capture_closed(probe, info, tcp);
      case kSynSent:
      case kSynReceived:
        return refuse(probe, "a connection is being made; try again in a moment");
      default:
        break;
    }
    if (holds_urgent_data(fd)) {
      return refuse(probe, "urgent data (MSG_OOB) waits to be read; try again in a moment");
    }
    FERMATA_ASSIGN_STATUS(const InetAddress remote, InetAddress::remote_of(fd));
    tcp.set_state(TcpSocket::CONNECTED);
    tcp.set_remote(remote.bytes());
    Live live{copy_of(probe), info.tcpi_state, local.key(), remote.key()};
    if (!live.probe.dup) return errno_status(errno, fmt::format("{}: dup", probe.describe()));
    live_[out.id()] = std::move(live);
    return Status::ok();
  }

  Status finish_capture(CaptureContext&, image::PodObjects& objects) override {
    std::map<uint32_t, TcpSocket*> records;
    for (image::File& file : *objects.mutable_files()) {
      if (live_.contains(file.id())) records[file.id()] = file.mutable_tcp();
    }
    FERMATA_TRY(pair_ends(records));
    // The programs stand still, but the kernel still delivers what is under way: read until nothing
    // moves.
    constexpr int kAttempts = 40;
    for (int attempt = 1;; ++attempt) {
      Status read = read_queues(records);
      if (read.code() != Code::kBusy) return read;
      if (attempt == kAttempts) {
        return {Code::kCannotHold, read.message() + "; try again in a moment"};
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  bool owns(const image::File& file) const override { return file.has_tcp(); }

  Status start_rebuild(const image::PodObjects& objects, RebuildContext&) override {
    for (const image::File& file : objects.files()) {
      if (file.has_tcp()) files_[file.id()] = &file;
    }
    return Status::ok();
  }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    const TcpSocket& tcp = file.tcp();
    FERMATA_ASSIGN(UniqueFd fd,
                   socket_in_pod(context, file.creator(), tcp.ipv6() ? AF_INET6 : AF_INET,
                                 SOCK_STREAM, IPPROTO_TCP));
    const auto with_holder = [&](const Status& status) { return status.within(holder_of(file)); };
    FERMATA_TRY_RESULT(with_holder(apply_options_early(fd.get(), tcp.options())));
    FERMATA_ASSIGN(const InetAddress local, InetAddress::parse(tcp.local()));
    if (tcp.state() == TcpSocket::LISTENING) {
      FERMATA_TRY_RESULT(with_holder(listen_again(fd.get(), local, tcp)));
    } else if (tcp.state() == TcpSocket::NEW && !local.empty()) {
      FERMATA_TRY_RESULT(with_holder(bind_again(fd.get(), local)));
    } else if (tcp.state() == TcpSocket::ENDED) {
      FERMATA_TRY_RESULT(with_holder(end_again(fd.get(), tcp)));
    }
    if (tcp.state() != TcpSocket::CONNECTED && tcp.state() != TcpSocket::WAITING) {
      FERMATA_TRY_RESULT(with_holder(apply_options_late(fd.get(), tcp.options())));
    }
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }

  Status connect(const image::File& file, RebuildContext& context) override {
    const TcpSocket& tcp = file.tcp();
    if (tcp.state() == TcpSocket::WAITING) {
      return connect_to_listener(file, context.created(file.id())).within(holder_of(file));
    }
    if (tcp.state() != TcpSocket::CONNECTED || !connected_.insert(file.id()).second) {
      return Status::ok();
    }
    return connect_again(file, context).within(holder_of(file));
  }

 private:
  struct Listener {
    std::string key;
    bool wildcard = false;
    uint16_t port = 0;
    uint32_t file_id = 0;
    uint32_t queued = 0;  // connections not accepted yet
    std::string text;
  };

  static bool holds_urgent_data(int fd) {
    char byte = 0;
    return ::recv(fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) > 0;
  }

  static Status capture_closed(const FileProbe& probe, const tcp_info& info, TcpSocket& tcp) {
    if (info.tcpi_segs_in == 0) {
      tcp.set_state(TcpSocket::NEW);
      return Status::ok();
    }
    tcp.set_state(TcpSocket::ENDED);
    pollfd state{probe.dup.get(), POLLIN, 0};
    if (::poll(&state, 1, 0) < 0) return errno_status(errno, probe.describe());
    tcp.set_error_pending((state.revents & POLLERR) != 0);
    tcp.set_reset(tcp.error_pending());
    FERMATA_ASSIGN_STATUS(const std::string received, peek_stream(probe, probe.dup.get()));
    tcp.set_received(received);
    return Status::ok();
  }

  // Finds the other end of every connection: a file of the pod, a closed one, or a listener's
  // queue.
  Status pair_ends(std::map<uint32_t, TcpSocket*>& records) {
    std::map<std::pair<std::string, std::string>, uint32_t> ends;
    for (const auto& [id, live] : live_) ends[{live.local, live.remote}] = id;
    std::vector<uint32_t> alone;
    for (const auto& [id, live] : live_) {
      TcpSocket& tcp = *records.at(id);
      tcp.set_fin_sent(has_sent_fin(live.state));
      const auto peer = ends.find({live.remote, live.local});
      if (peer == ends.end()) {
        alone.push_back(id);
      } else {
        tcp.set_peer_file(peer->second);
      }
    }
    std::vector<InetSocket> all;
    if (!alone.empty()) {
      FERMATA_ASSIGN_STATUS(all, list_inet_sockets(IPPROTO_TCP));
    }
    std::map<uint32_t, uint32_t> waiting;
    std::vector<std::string> refused;
    for (const uint32_t id : alone) {
      TcpSocket& tcp = *records.at(id);
      Status status = place_alone(live_.at(id), all, tcp);
      if (!status && status.code() != Code::kCannotHold) return status;
      if (!status) refused.push_back(status.message());
      if (tcp.state() == TcpSocket::WAITING) ++waiting[tcp.waits_at()];
    }
    for (const Listener& listener : listeners_) {
      if (listener.queued > waiting[listener.file_id]) {
        refused.push_back(listener.text +
                          ": a connection from outside the job, or one that ended already, waits "
                          "to be accepted; try again in a moment");
      }
    }
    return refused.empty() ? Status::ok()
                           : Status(Code::kCannotHold, fmt::format("{}", fmt::join(refused, "\n")));
  }

  Status place_alone(const Live& live, const std::vector<InetSocket>& all, TcpSocket& tcp) const {
    FERMATA_ASSIGN_STATUS(const InetAddress remote, InetAddress::parse(tcp.remote()));
    const auto peer = std::find_if(all.begin(), all.end(), [&](const InetSocket& socket) {
      return socket.local.key() == live.remote && socket.remote.key() == live.local;
    });
    const bool ended_by_peer = has_received_fin(live.state);
    if (peer == all.end() ? ended_by_peer && remote.is_local()
                          : peer->inode == 0 && has_sent_fin(peer->state) && ended_by_peer) {
      tcp.set_peer_closed(true);
      return Status::ok();
    }
    if (peer != all.end() && peer->inode == 0) {
      const auto listener =
          std::find_if(listeners_.begin(), listeners_.end(), [&](const Listener& one) {
            return one.port == remote.port() && (one.wildcard || one.key == live.remote);
          });
      FERMATA_ASSIGN_STATUS(const size_t under_way, unsent_or_unacknowledged(live.probe.dup.get()));
      const size_t fin = live.state == kFinWait1 ? 1 : 0;
      const bool accepted_never = peer->state == kEstablished || peer->state == kCloseWait;
      // The kernel counts a FIN as one byte of the queue's length in this listing only when it is
      // not yet read.
      if (listener != listeners_.end() && accepted_never && under_way <= fin &&
          peer->receive_queue == 0) {
        tcp.set_state(TcpSocket::WAITING);
        tcp.set_waits_at(listener->file_id);
        return Status::ok();
      }
      return refuse(
          live.probe,
          fmt::format("the connection to {} is in the middle of being accepted or closed; "
                      "try again in a moment",
                      remote.text()));
    }
    return refuse(live.probe,
                  fmt::format("it is connected to {}, outside the job; only connections "
                              "between processes of the job can be held",
                              remote.text()));
  }

  Status read_queues(std::map<uint32_t, TcpSocket*>& records) {
    std::vector<Direction> directions;
    std::vector<uint32_t> senders;
    for (const auto& [id, live] : live_) {
      TcpSocket& tcp = *records.at(id);
      tcp.clear_to_send();
      if (tcp.peer_file() == 0) continue;
      const Live& peer = live_.at(tcp.peer_file());
      // A FIN comes after every byte: who has it has all.
      if (has_received_fin(info_of(peer.probe.dup.get()).tcpi_state)) continue;
      FERMATA_ASSIGN_STATUS(const size_t queued, unsent_or_unacknowledged(live.probe.dup.get()));
      if (queued == 0) continue;
      Direction direction;
      direction.sender = live.probe.dup.get();
      direction.receiver = peer.probe.dup.get();
      direction.fin_queued = tcp.fin_sent();
      directions.push_back(std::move(direction));
      senders.push_back(id);
    }
    if (!directions.empty()) FERMATA_TRY(read_send_queues(directions));
    for (const auto& [id, live] : live_) {
      TcpSocket& tcp = *records.at(id);
      FERMATA_ASSIGN_STATUS(std::string received, peek_stream(live.probe, live.probe.dup.get()));
      tcp.set_received(std::move(received));
      const int state = info_of(live.probe.dup.get()).tcpi_state;
      pollfd ready{live.probe.dup.get(), POLLRDHUP, 0};
      if (::poll(&ready, 1, 0) < 0) return errno_status(errno, live.probe.describe());
      tcp.set_receive_shut(!has_received_fin(state) && (ready.revents & POLLRDHUP) != 0);
      if (has_sent_fin(state) != tcp.fin_sent() || state == kTimeWait || state == kClose) {
        return {Code::kBusy, fmt::format("{}: the connection just ended", live.probe.describe())};
      }
    }
    for (size_t i = 0; i < directions.size(); ++i) {
      TcpSocket& sender = *records.at(senders[i]);
      if (records.at(sender.peer_file())->received().size() != directions[i].receiver_queue) {
        return {Code::kBusy, "a TCP connection moved while it was read"};
      }
      sender.set_to_send(std::move(directions[i].unreceived));
    }
    return check_nothing_moved(records);
  }

  // A direction with an empty send queue was complete in the receiver's queue before we looked at
  // that queue, unless the last bytes arrived in between: then the queue is longer now.
  Status check_nothing_moved(const std::map<uint32_t, TcpSocket*>& records) const {
    for (const auto& [id, live] : live_) {
      FERMATA_ASSIGN_STATUS(const size_t unread, unread_bytes(live.probe.dup.get()));
      if (unread != records.at(id)->received().size()) {
        return {Code::kBusy, "a TCP connection moved while it was read"};
      }
    }
    return Status::ok();
  }

  // Takes connections of the past off a port; kConflict names who else has it.
  static Status free_port(const InetAddress& local, const InetAddress* remote) {
    FERMATA_ASSIGN_STATUS(const std::vector<InetSocket> all, list_inet_sockets(IPPROTO_TCP));
    for (const InetSocket& socket : all) {
      if (socket.local.port() != local.port()) continue;
      const bool same = remote == nullptr ||
                        (socket.local.key() == local.key() && socket.remote.key() == remote->key());
      if (!same) continue;
      if (socket.state == kTimeWait) {
        // Not to be had on every kernel (CONFIG_INET_DIAG_DESTROY); then the caller's patience
        // helps.
        (void)destroy_time_wait(socket);
      } else if (socket.inode != 0 && (remote != nullptr || socket.state == kListen)) {
        return {
            Code::kConflict,
            fmt::format("TCP port {} is taken by {}; end it, or restart the job on another host",
                        local.port(), holder_of_socket(socket.inode)),
            EADDRINUSE};
      }
    }
    return Status::ok();
  }

  // Tries `step` again while its addresses are in use by what is about to vanish.
  template <typename Step>
  static Status with_patience(const InetAddress& local, const InetAddress* remote, Step step) {
    const auto deadline = std::chrono::steady_clock::now() + kAddressPatience;
    for (;;) {
      Status status = step();
      const int error = status.error_number();
      if (error != EADDRINUSE && error != EADDRNOTAVAIL) return status;
      if (error == EADDRNOTAVAIL && !local.is_wildcard() && !local.is_local()) {
        return {Code::kConflict,
                fmt::format("this host does not have the address of {}; restart the job on the "
                            "host it ran on",
                            local.text()),
                error};
      }
      FERMATA_TRY(free_port(local, remote));
      if (std::chrono::steady_clock::now() > deadline) {
        return {Code::kConflict,
                fmt::format("TCP address {} is still in use (by connections in TIME_WAIT, or by a "
                            "socket that nobody has open): {}; try again in a minute",
                            local.text(), status.message()),
                error};
      }
      std::this_thread::sleep_for(kAddressPause);
    }
  }

  static Status bind_again(int fd, const InetAddress& local) {
    return with_patience(local, nullptr, [&] {
      if (::bind(fd, local.get(), local.length()) == 0) return Status::ok();
      return errno_status(errno, fmt::format("bind to {}", local.text()));
    });
  }

  static Status listen_again(int fd, const InetAddress& local, const TcpSocket& tcp) {
    if (local.empty()) return {Code::kDamaged, "a listening socket without an address"};
    // Connections of the pod that are not in TIME_WAIT any more may still be on the port.
    const int one = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    FERMATA_TRY(bind_again(fd, local));
    FERMATA_TRY(with_patience(local, nullptr, [&] {
      if (::listen(fd, tcp.backlog()) == 0) return Status::ok();
      return errno_status(errno, fmt::format("listening at {}", local.text()));
    }));
    int reuse = 0;
    for (const image::SocketOption& option : tcp.options().options()) {
      if (option.level() == SOL_SOCKET && option.name() == SO_REUSEADDR) reuse = 1;
    }
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
    return Status::ok();
  }

  // Brings a new socket to the end of a connection by having one, from another address: what it
  // reads and the error it gets are the same; its own address is not.
  static Status end_again(int fd, const TcpSocket& tcp) {
    const int family = tcp.ipv6() ? AF_INET6 : AF_INET;
    const UniqueFd listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const InetAddress loopback = tcp.ipv6() ? InetAddress(&in6addr_loopback, AF_INET6, 0)
                                            : InetAddress("\x7f\0\0\1", AF_INET, 0);
    if (!listener || ::bind(listener.get(), loopback.get(), loopback.length()) != 0 ||
        ::listen(listener.get(), 1) != 0) {
      return errno_status(errno, "a socket for the other end of an ended connection");
    }
    FERMATA_ASSIGN_STATUS(const InetAddress address, InetAddress::local_of(listener.get()));
    if (::connect(fd, address.get(), address.length()) != 0) return errno_status(errno, "connect");
    UniqueFd peer(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!peer) return errno_status(errno, "accept");
    const std::string& received = tcp.received();
    FERMATA_TRY(make_room(peer.get(), received.size(), 0));
    FERMATA_TRY(make_room(fd, 0, received.size()));
    FERMATA_TRY(send_all(peer.get(), received));
    if (tcp.reset()) {
      const linger at_once{1, 0};
      ::setsockopt(peer.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    }
    peer.reset();
    if (!tcp.reset()) ::shutdown(fd, SHUT_WR);
    return Status::ok();
  }

  static Status send_all(int fd, const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n =
          ::send(fd, bytes.data() + at, bytes.size() - at, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n <= 0) return errno_status(n == 0 ? EIO : errno, "filling a TCP queue");
      at += static_cast<size_t>(n);
    }
    return Status::ok();
  }

  Status connect_to_listener(const image::File& file, int fd) const {
    const TcpSocket& tcp = file.tcp();
    FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::parse(tcp.local()));
    FERMATA_ASSIGN_STATUS(const InetAddress remote, InetAddress::parse(tcp.remote()));
    FERMATA_TRY(check_inside(file));
    FERMATA_TRY(bind_beside_others(fd, local));
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
    if (tcp.fin_sent()) ::shutdown(fd, SHUT_WR);
    if (tcp.receive_shut()) ::shutdown(fd, SHUT_RD);
    return Status::ok();
  }

  // An image says whom to connect to; it must be a socket of the same image.
  Status check_inside(const image::File& file) const {
    const TcpSocket& tcp = file.tcp();
    if (tcp.local().empty() || tcp.remote().empty()) {
      return {Code::kDamaged, "a TCP connection without addresses"};
    }
    if (tcp.state() == TcpSocket::WAITING) {
      const auto listener = files_.find(tcp.waits_at());
      FERMATA_ASSIGN_STATUS(const InetAddress remote, InetAddress::parse(tcp.remote()));
      if (listener != files_.end() && listener->second->tcp().state() == TcpSocket::LISTENING) {
        FERMATA_ASSIGN_STATUS(const InetAddress at,
                              InetAddress::parse(listener->second->tcp().local()));
        if (!at.empty() && at.port() == remote.port() &&
            (at.is_wildcard() || at.key() == remote.key())) {
          return Status::ok();
        }
      }
      return {Code::kDamaged, "a TCP connection to a listener that is not in the image"};
    }
    if (tcp.peer_closed()) return Status::ok();
    const auto peer = files_.find(tcp.peer_file());
    if (peer != files_.end() && peer->second->tcp().state() == TcpSocket::CONNECTED &&
        peer->second->tcp().peer_file() == file.id() && peer->first != file.id()) {
      FERMATA_ASSIGN_STATUS(const InetAddress here, InetAddress::parse(tcp.local()));
      FERMATA_ASSIGN_STATUS(const InetAddress there, InetAddress::parse(tcp.remote()));
      FERMATA_ASSIGN_STATUS(const InetAddress peer_here,
                            InetAddress::parse(peer->second->tcp().local()));
      FERMATA_ASSIGN_STATUS(const InetAddress peer_there,
                            InetAddress::parse(peer->second->tcp().remote()));
      if (here.key() == peer_there.key() && there.key() == peer_here.key()) return Status::ok();
    }
    return {Code::kDamaged, "a TCP connection whose other end is not in the image"};
  }

  Status connect_again(const image::File& file, RebuildContext& context) {
    const TcpSocket& tcp = file.tcp();
    FERMATA_TRY(check_inside(file));
    ConnectionEnd here{context.created(file.id()), {}, tcp.received()};
    FERMATA_ASSIGN_STATUS(here.local, InetAddress::parse(tcp.local()));
    ConnectionEnd there;
    FERMATA_ASSIGN_STATUS(there.local, InetAddress::parse(tcp.remote()));
    UniqueFd closed_end;
    const TcpSocket* peer = nullptr;
    if (tcp.peer_closed()) {
      closed_end.reset(::socket(there.local.family(), SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
      if (!closed_end) return errno_status(errno, "a TCP socket");
      there.fd = closed_end.get();
    } else {
      const image::File& other = *files_.at(tcp.peer_file());
      connected_.insert(other.id());
      peer = &other.tcp();
      there.fd = context.created(other.id());
      there.received = peer->received();
      // As the peer has it: the family may differ (IPv4-mapped addresses).
      FERMATA_ASSIGN_STATUS(there.local, InetAddress::parse(peer->local()));
    }
    FERMATA_TRY(with_patience(here.local, &there.local, [&] { return connect_pair(here, there); }));
    FERMATA_TRY(finish_end(here.fd, tcp));
    if (peer != nullptr) FERMATA_TRY(finish_end(there.fd, *peer));
    FERMATA_TRY(close_sides(here.fd, tcp));
    if (peer != nullptr) FERMATA_TRY(close_sides(there.fd, *peer));
    return Status::ok();
  }

  static Status finish_end(int fd, const TcpSocket& tcp) {
    FERMATA_TRY(make_room(fd, tcp.to_send().size(), 0));
    FERMATA_TRY(send_all(fd, tcp.to_send()));
    return apply_options_late(fd, tcp.options());
  }

  static Status close_sides(int fd, const TcpSocket& tcp) {
    if (tcp.fin_sent() && ::shutdown(fd, SHUT_WR) != 0) return errno_status(errno, "shutdown");
    if (tcp.receive_shut() && ::shutdown(fd, SHUT_RD) != 0) return errno_status(errno, "shutdown");
    return Status::ok();
  }

  // Of a capture.
  std::map<uint32_t, Live> live_;
  std::vector<Listener> listeners_;
  // Of a rebuild.
  std::map<uint32_t, const image::File*> files_;
  std::set<uint32_t> connected_;
};

}  // namespace

std::unique_ptr<FileKind> make_tcp_socket_kind() { return std::make_unique<TcpSocketKind>(); }

}  // namespace fermata::engine
