// UDP sockets: address, peer, options, unread datagrams. A peer need not be in the pod: datagrams
// promise nothing.
//
// An unread datagram is sent again from the socket it came from: one of the image, or one of ours
// bound to the same address for a moment. Where neither can be (it came from another host), it
// would be lost: the capture is refused, and may be tried again when it was read.
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <map>
#include <set>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/inet_address.h"
#include "node-agent/engine/socket_diag.h"
#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/wire_address.h"

namespace fermata::engine {
namespace {

using image::UdpSocket;

class UdpSocketKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    if (!S_ISSOCK(probe.status.st_mode)) return false;
    const int fd = probe.dup.get();
    const int family = socket_option(fd, SOL_SOCKET, SO_DOMAIN);
    return (family == AF_INET || family == AF_INET6) &&
           socket_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM &&
           socket_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_UDP;
  }

  Status capture(const FileProbe& probe, CaptureContext& context, image::File& out) override {
    const int fd = probe.dup.get();
    UdpSocket& udp = *out.mutable_udp();
    udp.set_ipv6(socket_option(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6);
    FERMATA_TRY(capture_options(fd, *udp.mutable_options()));
    FERMATA_ASSIGN_STATUS(const WireEnds ends, addresses_.of(fd, context.outside()));
    udp.set_local(ends.local.bytes());
    udp.set_remote(ends.remote.bytes());
    FERMATA_ASSIGN_STATUS(std::vector<QueuedMessage> messages, peek_messages(probe, fd));
    for (QueuedMessage& message : messages) {
      image::SocketMessage& one = *udp.add_messages();
      one.set_data(std::move(message.data));
      one.set_source(std::move(message.source));
    }
    if (udp.messages_size() > 0) seen_[out.id()] = probe.describe();
    return Status::ok();
  }

  Status finish_capture(CaptureContext&, image::PodObjects& objects) override {
    if (seen_.empty()) return Status::ok();
    std::set<uint16_t> ports_inside;
    for (const image::File& file : objects.files()) {
      if (!file.has_udp()) continue;
      FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::parse(file.udp().local()));
      if (!local.empty()) ports_inside.insert(local.port());
    }
    FERMATA_ASSIGN_STATUS(const std::vector<InetSocket> all, list_inet_sockets(IPPROTO_UDP));
    for (const image::File& file : objects.files()) {
      for (const image::SocketMessage& message : file.udp().messages()) {
        FERMATA_ASSIGN_STATUS(const InetAddress source, InetAddress::parse(message.source()));
        const bool taken = std::any_of(all.begin(), all.end(), [&](const InetSocket& socket) {
          return socket.local.port() == source.port();
        });
        if (!source.empty() && source.is_local() &&
            (!taken || ports_inside.contains(source.port()))) {
          continue;
        }
        return {Code::kBusy,
                fmt::format("{}: a datagram from {}, of another host or pod, waits to be read and "
                            "cannot be sent again from there: let the program read it",
                            seen_.at(file.id()), source.text())};
      }
    }
    return Status::ok();
  }

  bool owns(const image::File& file) const override { return file.has_udp(); }

  Status start_rebuild(const image::PodObjects& objects, RebuildContext&) override {
    for (const image::File& file : objects.files()) {
      if (!file.has_udp()) continue;
      files_.push_back(&file);
      FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::parse(file.udp().local()));
      if (!local.empty()) by_port_.emplace(local.port(), &file);
    }
    return Status::ok();
  }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    const UdpSocket& udp = file.udp();
    const int family = udp.ipv6() ? AF_INET6 : AF_INET;
    FERMATA_ASSIGN(UniqueFd fd,
                   socket_in_pod(context, file.creator(), family, SOCK_DGRAM, IPPROTO_UDP));
    FERMATA_TRY_RESULT(apply_options_early(fd.get(), udp.options()).within(holder_of(file)));
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }

  Status bind(RebuildContext& context) override {
    for (const image::File* file : files_) FERMATA_TRY(bind_one(*file, context));
    return Status::ok();
  }

  Status connect(const image::File& file, RebuildContext& context) override {
    for (const image::SocketMessage& message : file.udp().messages()) {
      FERMATA_TRY(deliver(file, message, context).within(holder_of(file)));
    }
    return Status::ok();
  }

  // After the datagrams: a connected socket takes them from its peer alone. Who is of no pod of the
  // step is where it was.
  Status connect_outside(RebuildContext& context) override {
    for (const image::File* file : files_) {
      const int fd = context.created(file->id());
      FERMATA_ASSIGN_STATUS(InetAddress remote, InetAddress::parse(file->udp().remote()));
      if (!remote.empty()) {
        remote = context.network().now(IPPROTO_UDP, remote).value_or(remote);
        if (::connect(fd, remote.get(), remote.length()) != 0) {
          return errno_status(errno,
                              fmt::format("{}: UDP peer {}", holder_of(*file), remote.text()));
        }
      }
      FERMATA_TRY(apply_options_late(fd, file->udp().options()).within(holder_of(*file)));
    }
    return Status::ok();
  }

 private:
  static Status bind_one(const image::File& file, RebuildContext& context) {
    const int fd = context.created(file.id());
    FERMATA_ASSIGN_STATUS(const InetAddress local, InetAddress::parse(file.udp().local()));
    if (local.empty()) return Status::ok();
    if (context.network().moves()) {
      return context.network().bind(fd, IPPROTO_UDP, local).within(holder_of(file));
    }
    if (::bind(fd, local.get(), local.length()) == 0) return Status::ok();
    return explain_bind(file, local, errno);
  }

  static Status explain_bind(const image::File& file, const InetAddress& local, int error) {
    std::string why = fmt::format("{}: UDP address {}", holder_of(file), local.text());
    if (error == EADDRINUSE) {
      if (const auto all = list_inet_sockets(IPPROTO_UDP)) {
        for (const InetSocket& socket : *all) {
          if (socket.local.port() == local.port() && socket.inode != 0) {
            return {Code::kConflict,
                    fmt::format("{} is taken by {}; end it, or restart the job on another host",
                                why, holder_of_socket(socket.inode)),
                    error};
          }
        }
      }
    }
    if (error == EADDRNOTAVAIL) {
      return {Code::kConflict, why + " is not one of this host; restart the job where it ran",
              error};
    }
    return errno_status(error, why);
  }

  // Sends a datagram to the rebuilt socket from where it came.
  Status deliver(const image::File& file, const image::SocketMessage& message,
                 RebuildContext& context) const {
    FERMATA_ASSIGN_STATUS(const InetAddress then, InetAddress::parse(message.source()));
    if (then.empty() || file.udp().local().empty()) {
      return {Code::kDamaged, "an unread datagram without addresses"};
    }
    FERMATA_ASSIGN_STATUS(const InetAddress source, context.network().address_here(then));
    FERMATA_ASSIGN_STATUS(InetAddress target, InetAddress::local_of(context.created(file.id())));
    if (target.is_wildcard()) target = with_host_of(source, target);
    FERMATA_TRY(make_room(context.created(file.id()), 0, message.data().size()));
    const auto known = by_port_.find(source.port());
    UniqueFd temporary;
    int sender = known == by_port_.end() ? -1 : context.created(known->second->id());
    if (sender < 0) {
      temporary.reset(::socket(source.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
      if (!temporary || ::bind(temporary.get(), source.get(), source.length()) != 0) {
        return errno_status(errno,
                            fmt::format("a datagram from {} cannot be sent again", source.text()));
      }
      sender = temporary.get();
    }
    const std::string& data = message.data();
    if (::sendto(sender, data.data(), data.size(), MSG_DONTWAIT, target.get(), target.length()) ==
        static_cast<ssize_t>(data.size())) {
      return Status::ok();
    }
    return errno_status(errno, fmt::format("sending a datagram of {} bytes again", data.size()));
  }

  // A socket bound to all addresses is reached at the sender's own: both are of this host.
  static InetAddress with_host_of(const InetAddress& host, const InetAddress& port) {
    if (host.family() == AF_INET) {
      return {&reinterpret_cast<const sockaddr_in*>(host.get())->sin_addr, AF_INET, port.port()};
    }
    return {&reinterpret_cast<const sockaddr_in6*>(host.get())->sin6_addr, AF_INET6, port.port()};
  }

  std::map<uint32_t, std::string> seen_;  // of a capture: who has unread datagrams
  WireAddresses addresses_{IPPROTO_UDP};
  std::vector<const image::File*> files_;
  std::multimap<uint16_t, const image::File*> by_port_;
};

}  // namespace

std::unique_ptr<FileKind> make_udp_socket_kind() { return std::make_unique<UdpSocketKind>(); }

}  // namespace fermata::engine
