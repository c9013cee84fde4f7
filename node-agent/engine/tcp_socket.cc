// TCP sockets: new, bound, listening, connecting, connected, half closed, ended. Connections inside
// the pod are the business of tcp_pairs, those with other pods that of tcp_outside.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <thread>
#include <utility>

#include "common/try_again.h"
#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/tcp_connect.h"
#include "node-agent/engine/tcp_outside.h"
#include "node-agent/engine/tcp_pairs.h"
#include "node-agent/engine/tcp_ports.h"
#include "node-agent/engine/tcp_repair.h"
#include "node-agent/engine/tcp_states.h"
#include "node-agent/engine/wire_address.h"

namespace fermata::engine {
namespace {

using image::TcpSocket;

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

bool is_connection(const TcpSocket& tcp) {
  return tcp.state() == TcpSocket::CONNECTED || tcp.state() == TcpSocket::WAITING ||
         tcp.state() == TcpSocket::CONNECTING;
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

  Status capture(const FileProbe& probe, CaptureContext& context, image::File& out) override {
    const int fd = probe.dup.get();
    TcpSocket& tcp = *out.mutable_tcp();
    tcp.set_ipv6(socket_option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6);
    FERMATA_TRY(capture_options(fd, *tcp.mutable_options()));
    FERMATA_ASSIGN_STATUS(const WireEnds ends, addresses_.of(fd, context.outside()));
    tcp.set_local(ends.local.bytes());
    const tcp_info info = tcp_info_of(fd);
    switch (info.tcpi_state) {
      case kListen:
        tcp.set_state(TcpSocket::LISTENING);
        tcp.set_backlog(
            static_cast<int32_t>(info.tcpi_sacked));  // tcp(7): of a listener, the backlog
        listeners_.push_back({ends.local, out.id(), info.tcpi_unacked, probe.describe()});
        return Status::ok();
      case kClose:
        return capture_closed(probe, info, tcp);
      case kSynSent:
        if (!context.outside().allowed || ends.remote.empty()) return refuse_connecting(probe);
        tcp.set_state(TcpSocket::CONNECTING);
        tcp.set_remote(ends.remote.bytes());
        return Status::ok();
      case kSynReceived:
        return refuse_connecting(probe);
      default:
        break;
    }
    if (holds_urgent_data(fd)) {
      return refuse_now(probe, "urgent data (MSG_OOB) waits to be read");
    }
    tcp.set_state(TcpSocket::CONNECTED);
    tcp.set_remote(ends.remote.bytes());
    LiveTcp live{copy_of(probe), info.tcpi_state, ends.local, ends.remote};
    if (!live.probe.dup) return errno_status(errno, fmt::format("{}: dup", probe.describe()));
    live_[out.id()] = std::move(live);
    return Status::ok();
  }

  Status finish_capture(CaptureContext& context, image::PodObjects& objects) override {
    TcpRecords records;
    std::map<uint32_t, std::string> holders;
    for (image::File& file : *objects.mutable_files()) {
      if (!live_.contains(file.id())) continue;
      records[file.id()] = file.mutable_tcp();
      holders[file.id()] = holder_of(file, context);
    }
    OutsideConnections& outside = context.outside();
    FERMATA_ASSIGN_STATUS(const std::vector<uint32_t> leaving,
                          pair_ends(live_, listeners_, outside, records));
    // The programs stand still, but the kernel still delivers what is under way: read until nothing
    // moves.
    constexpr int kAttempts = 40;
    for (int attempt = 1;; ++attempt) {
      Status read = read_queues(live_, records);
      if (read) read = read_leaving(leaving, live_, records);
      if (read) break;
      if (read.code() != Code::kBusy) return read;
      if (attempt == kAttempts) {
        return {Code::kBusy, fmt::format("{}{}", read.message(), kTryAgain)};
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    for (const uint32_t id : leaving) {
      outside.connections.push_back(outside_connection(live_.at(id), holders.at(id)));
    }
    if (!outside.allowed) return Status::ok();
    for (auto& [id, live] : live_) outside.sockets.push_back(std::move(live.probe.dup));
    return Status::ok();
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
    if (tcp.state() == TcpSocket::ENDED) {
      FERMATA_TRY_RESULT(with_holder(end_again(fd.get(), tcp)));
      FERMATA_TRY_RESULT(with_holder(apply_options_late(fd.get(), tcp.options())));
    }
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }

  // Listeners first: others can be put beside them, not the other way round.
  Status bind(RebuildContext& context) override {
    constexpr std::array<bool (*)(const TcpSocket&), 3> kRounds{
        [](const TcpSocket& tcp) { return tcp.state() == TcpSocket::LISTENING; },
        [](const TcpSocket& tcp) { return tcp.state() == TcpSocket::NEW; }, &is_connection};
    for (const auto& is_due : kRounds) {
      for (const auto& [id, file] : files_) {
        if (!is_due(file->tcp())) continue;
        FERMATA_TRY(bind_one(*file, context).within(holder_of(*file)));
      }
    }
    return Status::ok();
  }

  Status connect(const image::File& file, RebuildContext& context) override {
    const TcpSocket& tcp = file.tcp();
    const bool inside = tcp.state() == TcpSocket::WAITING ||
                        (tcp.state() == TcpSocket::CONNECTED && !tcp.has_wire());
    return inside ? pairs_.connect(file, context).within(holder_of(file)) : Status::ok();
  }

  Status connect_outside(RebuildContext& context) override {
    for (const auto& [id, file] : files_) {
      const TcpSocket& tcp = file->tcp();
      if (tcp.state() != TcpSocket::CONNECTING && !tcp.has_wire()) continue;
      FERMATA_TRY(
          outside_.connect(*file, context.created(id), context.network()).within(holder_of(*file)));
    }
    return Status::ok();
  }

  Status begin(RebuildContext&) override { return outside_.begin(); }

 private:
  static bool holds_urgent_data(int fd) {
    char byte = 0;
    return ::recv(fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) > 0;
  }

  static Status refuse_connecting(const FileProbe& probe) {
    return refuse_now(probe, "a connection is being made");
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

  static Status bind_plainly(int fd, const InetAddress& local) {
    return with_patience(local, nullptr, [&] {
      if (::bind(fd, local.get(), local.length()) == 0) return Status::ok();
      return errno_status(errno, fmt::format("bind to {}", local.text()));
    });
  }

  static Status bind_one(const image::File& file, RebuildContext& context) {
    const TcpSocket& tcp = file.tcp();
    const int fd = context.created(file.id());
    FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::parse(tcp.local()));
    if (tcp.state() == TcpSocket::LISTENING) {
      FERMATA_TRY(listen_again(fd, local, tcp, context.network()));
    } else if (!local.empty() && context.network().moves()) {
      FERMATA_TRY(context.network().bind(fd, IPPROTO_TCP, local));
    } else if (!local.empty() && tcp.state() == TcpSocket::NEW) {
      FERMATA_TRY(bind_plainly(fd, local));
    } else if (!local.empty()) {
      FERMATA_ASSIGN_STATUS(const InetAddress remote, InetAddress::parse(tcp.remote()));
      FERMATA_TRY(with_patience(local, &remote, [&] { return bind_beside_others(fd, local); }));
    }
    return is_connection(tcp) ? Status::ok() : apply_options_late(fd, tcp.options());
  }

  static Status listen_again(int fd, const InetAddress& local, const TcpSocket& tcp,
                             NetworkMap& network) {
    if (local.empty()) return {Code::kDamaged, "a listening socket without an address"};
    // Connections of the pod that are not in TIME_WAIT any more may still be on the port.
    const int one = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    FERMATA_TRY(network.moves() ? network.bind(fd, IPPROTO_TCP, local) : bind_plainly(fd, local));
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

  // Of a capture.
  WireAddresses addresses_{IPPROTO_TCP};
  LiveTcps live_;
  std::vector<TcpListener> listeners_;
  // Of a rebuild.
  std::map<uint32_t, const image::File*> files_;
  TcpPairs pairs_{files_};
  TcpOutside outside_;
};

}  // namespace

std::unique_ptr<FileKind> make_tcp_socket_kind() { return std::make_unique<TcpSocketKind>(); }

}  // namespace fermata::engine
