// UNIX sockets whose other ends are in the pod: pairs, connections by name, listeners, datagram
// sockets; with their unread messages, shut-down sides and names.
//
// Ends find each other by the inode numbers of sock_diag(7). A connection is rebuilt as a
// socketpair(2) where both ends have the same SO_PEERCRED process and no name; else by a real
// connect to a listener of that name, made by the processes that SO_PEERCRED is to show. Queues are
// filled by sending from the other end, which a closed end needs for a moment too.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/socket_diag.h"
#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/unix_name.h"

namespace fermata::engine {
namespace {

using image::UnixSocket;

constexpr int kListening = 10;                           // TCP_LISTEN, which UNIX sockets use too
constexpr unsigned long kSocketFile = SIOCPROTOPRIVATE;  // SIOCUNIXFILE, <linux/un.h>
constexpr uint32_t kNoReceive = 1;
constexpr uint32_t kNoSend = 2;

UnixName name_of(const UnixSocket& socket) { return {socket.name(), socket.directory()}; }

bool is_datagram(const UnixSocket& socket) { return socket.type() == SOCK_DGRAM; }

std::string own_address(int fd, bool peer) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if ((peer ? ::getpeername(fd, generic, &size) : ::getsockname(fd, generic, &size)) != 0)
    return {};
  if (size <= sizeof(sa_family_t)) return {};
  return {reinterpret_cast<const char*>(&address), size};
}

class UnixSocketKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    return S_ISSOCK(probe.status.st_mode) &&
           socket_option(probe.dup.get(), SOL_SOCKET, SO_DOMAIN) == AF_UNIX;
  }

  Status capture(const FileProbe& probe, CaptureContext& context, image::File& out) override {
    if (!listed_) {
      FERMATA_ASSIGN_STATUS(std::vector<UnixSocketEntry> all, list_unix_sockets());
      for (UnixSocketEntry& entry : all) entries_.emplace(entry.inode, std::move(entry));
      listed_ = true;
    }
    const auto found = entries_.find(probe.status.st_ino);
    if (found == entries_.end()) {
      return refuse(probe,
                    "the kernel does not list this socket; is it of another network namespace?");
    }
    const UnixSocketEntry& entry = found->second;
    const int fd = probe.dup.get();
    UnixSocket& socket = *out.mutable_unix_socket();
    socket.set_type(entry.type);
    socket.set_inode(entry.inode);
    socket.set_name(own_address(fd, false));
    socket.set_peer_name(own_address(fd, true));
    socket.set_shutdown(entry.shutdown);
    FERMATA_TRY(capture_options(fd, *socket.mutable_options()));
    FERMATA_TRY(capture_path(probe, socket));
    seen_[out.id()] = probe.describe();
    by_inode_[entry.inode] = out.id();
    int sent = 0;
    if (entry.state != kListening && ::ioctl(fd, SIOCOUTQ, &sent) != 0) sent = 0;
    sent_[out.id()] = sent;
    if (entry.state == kListening) {
      socket.set_listening(true);
      socket.set_backlog(static_cast<int32_t>(entry.backlog));
      return Status::ok();
    }
    socket.set_connected(entry.has_peer);
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0) {
      socket.set_peer_credentials(context.vpid_of(peer.pid));
    }
    pollfd state{fd, POLLOUT, 0};
    if (::poll(&state, 1, 0) < 0) return errno_status(errno, probe.describe());
    socket.set_peer_reset((state.revents & POLLERR) != 0);
    return capture_queue(probe, context, socket);
  }

  Status finish_capture(CaptureContext&, image::PodObjects& objects) override {
    std::map<uint64_t, uint32_t> waits_at;  // inode of a client: file id of the listener
    std::vector<std::string> refused;
    for (const auto& [inode, id] : by_inode_) {
      for (const uint64_t client : entries_.at(inode).waiting) {
        if (by_inode_.contains(client)) {
          waits_at[client] = id;
        } else {
          refused.push_back(
              seen_.at(id) +
              ": a connection from outside the job, or one that ended already, waits to be "
              "accepted; try again in a moment");
        }
      }
    }
    std::set<std::string> names;
    for (const image::File& file : objects.files()) {
      if (file.has_unix_socket()) names.insert(file.unix_socket().name());
    }
    for (image::File& file : *objects.mutable_files()) {
      if (!file.has_unix_socket()) continue;
      Status status = place(file, waits_at, names);
      if (!status && status.code() != Code::kCannotHold) return status;
      if (!status) refused.push_back(status.message());
    }
    return refused.empty() ? Status::ok()
                           : Status(Code::kCannotHold, fmt::format("{}", fmt::join(refused, "\n")));
  }

  bool owns(const image::File& file) const override { return file.has_unix_socket(); }

  Status start_rebuild(const image::PodObjects& objects, RebuildContext&) override {
    for (const image::File& file : objects.files()) {
      if (file.has_unix_socket()) files_[file.id()] = &file;
    }
    for (const auto& [id, file] : files_) FERMATA_TRY(check(*file).within(holder_of(*file)));
    return Status::ok();
  }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    FERMATA_TRY_RESULT(make(file, context).within(holder_of(file)));
    UniqueFd fd = std::move(made_.at(file.id()));
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }

  Status connect(const image::File& file, RebuildContext& context) override {
    if (!finished_.insert(file.id()).second) return Status::ok();
    return finish(file, context).within(holder_of(file));
  }

 private:
  // --- capture ---

  Status capture_path(const FileProbe& probe, UnixSocket& socket) const {
    const UnixName name = name_of(socket);
    if (name.empty() || name.is_abstract()) return Status::ok();
    // An accepted socket has its listener's name and file.
    const UniqueFd file(::ioctl(probe.dup.get(), kSocketFile));
    if (!file) {
      socket.set_unlinked(true);
      return Status::ok();
    }
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return errno_status(errno, probe.describe());
    socket.set_mode(status.st_mode & 07777U);
    std::error_code error;
    const std::string where =
        std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", file.get()), error);
    struct stat named {};
    const bool there =
        ::lstat(fmt::format("/proc/{}/root{}", probe.pid, where).c_str(), &named) == 0 &&
        named.st_ino == status.st_ino && named.st_dev == status.st_dev;
    socket.set_unlinked(!there);
    const std::string path(name.path());
    if (path.starts_with('/')) return Status::ok();
    if (!where.ends_with("/" + path)) {
      return refuse(probe,
                    fmt::format("it is bound to the relative path '{}', which has moved to '{}'; "
                                "bind it to an absolute path",
                                path, where));
    }
    socket.set_directory(where.substr(0, where.size() - path.size() - 1));
    if (socket.directory().empty()) socket.set_directory("/");
    return Status::ok();
  }

  static Status capture_queue(const FileProbe& probe, CaptureContext& context, UnixSocket& socket) {
    const int fd = probe.dup.get();
    if (socket.type() == SOCK_STREAM) {
      FERMATA_ASSIGN_STATUS(std::string bytes, peek_stream(probe, fd));
      if (!bytes.empty()) socket.add_messages()->set_data(std::move(bytes));
      return Status::ok();
    }
    if (socket.type() == SOCK_SEQPACKET) {
      // Nothing but the end of the connection, or an error, to be read: a look would take the error
      // away.
      FERMATA_ASSIGN_STATUS(const size_t unread, unread_bytes(fd));
      if (unread == 0 && (socket.shutdown() & kNoReceive) != 0) return Status::ok();
    }
    FERMATA_ASSIGN_STATUS(std::vector<QueuedMessage> messages, peek_messages(probe, fd));
    for (QueuedMessage& message : messages) {
      image::SocketMessage& out = *socket.add_messages();
      out.set_data(std::move(message.data));
      out.set_source(std::move(message.source));
      if (message.sender > 0) out.set_sender_vpid(context.vpid_of(message.sender));
    }
    return Status::ok();
  }

  Status refuse_file(const image::File& file, std::string_view why) const {
    return {Code::kCannotHold, fmt::format("{}: {}", seen_.at(file.id()), why)};
  }

  // Finds the other end of a connection.
  Status place(image::File& file, const std::map<uint64_t, uint32_t>& waits_at,
               const std::set<std::string>& names) const {
    UnixSocket& socket = *file.mutable_unix_socket();
    if (socket.listening()) return Status::ok();
    if (!socket.connected()) return check_sources(file, names);
    const uint64_t peer = entries_.at(socket.inode()).peer;
    if (const auto other = by_inode_.find(peer); peer != 0 && other != by_inode_.end()) {
      socket.set_peer_file(other->second);
      return check_sources(file, names);
    }
    if (peer != 0) {
      const auto entry = entries_.find(peer);
      UnixName there{socket.peer_name(), {}};
      if (there.empty() && entry != entries_.end() && !entry->second.path.empty()) {
        there.address = std::string(offsetof(sockaddr_un, sun_path), '\0') + entry->second.path;
      }
      return refuse_file(file,
                         fmt::format("it is connected to '{}', outside the job; let the program "
                                     "close it before a checkpoint, or run without that service",
                                     there.empty() ? "a process" : there.text()));
    }
    if (const auto listener = waits_at.find(socket.inode()); listener != waits_at.end()) {
      if (sent_.at(file.id()) != 0) {
        return refuse_file(
            file,
            "what it sent over a connection that is not accepted yet cannot be read; "
            "try again in a moment");
      }
      socket.set_waits_at(listener->second);
      return Status::ok();
    }
    socket.set_peer_closed(true);
    return Status::ok();
  }

  // Every sender with a name must be there to send its messages again.
  Status check_sources(const image::File& file, const std::set<std::string>& names) const {
    if (!is_datagram(file.unix_socket())) return Status::ok();
    for (const image::SocketMessage& message : file.unix_socket().messages()) {
      if (message.source().empty() || names.contains(message.source())) continue;
      return refuse_file(
          file, fmt::format("a message from '{}', which is closed or outside the job, waits "
                            "to be read; try again in a moment",
                            UnixName{message.source(), {}}.text()));
    }
    return Status::ok();
  }

  // --- rebuild ---

  // A socket that a process of the pod has just made, until take() hands it to us.
  struct Foreign {
    Remote* process = nullptr;
    int fd = -1;

    Result<UniqueFd> take() const {
      FERMATA_ASSIGN(UniqueFd ours, process->take_fd(fd));
      FERMATA_ASSIGN([[maybe_unused]] const long closed,
                     process->call("close", SYS_close, {static_cast<uint64_t>(fd)}));
      return ours;
    }
  };

  static Result<Foreign> foreign_socket(RebuildContext& context, int vpid, int type) {
    FERMATA_ASSIGN(Remote * process, context.remote(vpid));
    FERMATA_ASSIGN(const long fd,
                   process->call("socket", SYS_socket,
                                 {AF_UNIX, static_cast<uint64_t>(type) | SOCK_CLOEXEC, 0}));
    return Foreign{process, static_cast<int>(fd)};
  }

  Status check(const image::File& file) const {
    const UnixSocket& socket = file.unix_socket();
    const auto damaged = [](std::string_view what) {
      return Status(Code::kDamaged, std::string(what));
    };
    if (socket.type() != SOCK_STREAM && socket.type() != SOCK_DGRAM &&
        socket.type() != SOCK_SEQPACKET) {
      return damaged("a UNIX socket of an unknown type");
    }
    FERMATA_TRY(check_name(name_of(socket)));
    if (socket.peer_file() != 0) {
      const auto peer = files_.find(socket.peer_file());
      if (peer == files_.end() || peer->first == file.id() ||
          peer->second->unix_socket().type() != socket.type() ||
          (!is_datagram(socket) && peer->second->unix_socket().peer_file() != file.id())) {
        return damaged("a UNIX socket whose other end is not in the image");
      }
    }
    if (socket.waits_at() != 0) {
      const auto listener = files_.find(socket.waits_at());
      if (listener == files_.end() || !listener->second->unix_socket().listening()) {
        return damaged("a UNIX socket that waits at no listener");
      }
    }
    return Status::ok();
  }

  bool is_pair(const image::File& file) const {
    const uint32_t peer = file.unix_socket().peer_file();
    return peer != 0 && files_.at(peer)->unix_socket().peer_file() == file.id();
  }

  // The image's listener that has this name, if any: a connection accepted there has the name too.
  const image::File* listener_named(const std::string& name, int type) const {
    for (const auto& [id, file] : files_) {
      const UnixSocket& socket = file->unix_socket();
      if (socket.listening() && socket.name() == name && socket.type() == type) return file;
    }
    return nullptr;
  }

  // The process to make an end in: who SO_PEERCRED of the other end shows, where it is one of the
  // pod's.
  static int maker(RebuildContext& context, int credentials, int otherwise) {
    return credentials > 0 && context.remote(credentials) ? credentials : otherwise;
  }

  Status make(const image::File& file, RebuildContext& context) {
    if (made_.contains(file.id())) return Status::ok();
    const UnixSocket& socket = file.unix_socket();
    if (is_pair(file)) return make_pair(file, files_.at(socket.peer_file()), context);
    if (socket.peer_closed()) return make_pair(file, nullptr, context);
    FERMATA_ASSIGN_STATUS(const Foreign fresh,
                          foreign_socket(context, file.creator(), socket.type()));
    if (!socket.name().empty()) {
      FERMATA_TRY(
          bind_name(*fresh.process, fresh.fd, name_of(socket), socket.mode(), !socket.unlinked()));
    }
    if (socket.listening()) {
      FERMATA_ASSIGN_STATUS([[maybe_unused]] const long listens,
                            fresh.process->call("listen", SYS_listen,
                                                {static_cast<uint64_t>(fresh.fd),
                                                 static_cast<uint64_t>(socket.backlog())}));
    }
    FERMATA_ASSIGN_STATUS(UniqueFd fd, fresh.take());
    return keep(file, std::move(fd));
  }

  Status keep(const image::File& file, UniqueFd fd) {
    FERMATA_TRY(apply_options_early(fd.get(), file.unix_socket().options()));
    made_[file.id()] = std::move(fd);
    return Status::ok();
  }

  // Both ends of a connection; `other` null: an end that its program has closed.
  Status make_pair(const image::File& file, const image::File* other, RebuildContext& context) {
    const UnixSocket& socket = file.unix_socket();
    const auto named = [&](const image::File* one) {
      return one != nullptr && !one->unix_socket().name().empty();
    };
    if (!is_datagram(socket) && (named(&file) || named(other))) {
      // The accepted end is the one with the name, or with its listener's name where both have one.
      const bool here = named(&file) &&
                        (!named(other) || listener_named(socket.name(), socket.type()) != nullptr);
      return here ? accept_pair(file, other, context) : accept_pair(*other, &file, context);
    }
    const int vpid = maker(context, socket.peer_credentials(), file.creator());
    FERMATA_ASSIGN_STATUS(SocketPair pair,
                          socketpair_in_pod(context, vpid, AF_UNIX, socket.type()));
    FERMATA_TRY(keep(file, std::move(pair.first)));
    if (other == nullptr) {
      closed_ends_[file.id()] = std::move(pair.second);
    } else {
      FERMATA_TRY(keep(*other, std::move(pair.second)));
      FERMATA_TRY(name_end(*other, context));
    }
    return name_end(file, context);
  }

  // A name for a socket that is connected already (a datagram socket may be bound at any time).
  Status name_end(const image::File& file, RebuildContext& context) {
    const UnixSocket& socket = file.unix_socket();
    if (socket.name().empty()) return Status::ok();
    FERMATA_ASSIGN_STATUS(Remote * process, context.remote(file.creator()));
    FERMATA_ASSIGN_STATUS(const int fd, process->give_fd(made_.at(file.id()).get(), -1, true));
    Status status = bind_name(*process, fd, name_of(socket), socket.mode(), !socket.unlinked());
    (void)process->call("close", SYS_close, {static_cast<uint64_t>(fd)});
    return status;
  }

  // `accepted` comes out of a listener of its name, to which the other end connects.
  Status accept_pair(const image::File& accepted, const image::File* client,
                     RebuildContext& context) {
    const UnixSocket& socket = accepted.unix_socket();
    const image::File* real = listener_named(socket.name(), socket.type());
    UniqueFd temporary;
    int listener = -1;
    UnixName name = name_of(socket);
    if (real != nullptr) {
      FERMATA_TRY(make(*real, context));
      listener = made_.at(real->id()) ? made_.at(real->id()).get() : context.created(real->id());
      name = name_of(real->unix_socket());
    }
    const int connector = maker(context, socket.peer_credentials(),
                                client != nullptr ? client->creator() : accepted.creator());
    FERMATA_ASSIGN_STATUS(const Foreign fresh, foreign_socket(context, connector, socket.type()));
    if (client != nullptr && !client->unix_socket().name().empty()) {
      const UnixSocket& own = client->unix_socket();
      FERMATA_TRY(bind_name(*fresh.process, fresh.fd, name_of(own), own.mode(), !own.unlinked()));
    }
    if (real != nullptr) {
      FERMATA_TRY(connect_name(*fresh.process, fresh.fd, name));
    } else {
      const int vpid =
          maker(context, client != nullptr ? client->unix_socket().peer_credentials() : 0,
                accepted.creator());
      FERMATA_TRY(connect_through(context, vpid, accepted, fresh, temporary));
      listener = temporary.get();
    }
    UniqueFd server(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!server) return errno_status(errno, fmt::format("accepting at '{}'", name.text()));
    FERMATA_ASSIGN_STATUS(UniqueFd connected, fresh.take());
    FERMATA_TRY(keep(accepted, std::move(server)));
    if (client != nullptr) return keep(*client, std::move(connected));
    closed_ends_[accepted.id()] = std::move(connected);
    return Status::ok();
  }

  // The listener is gone from the image: one for this connection alone. Its path stays only if it
  // was there.
  static Status connect_through(RebuildContext& context, int vpid, const image::File& accepted,
                                const Foreign& client, UniqueFd& listener) {
    const UnixSocket& socket = accepted.unix_socket();
    FERMATA_ASSIGN_STATUS(const Foreign fresh, foreign_socket(context, vpid, socket.type()));
    FERMATA_TRY(bind_name(*fresh.process, fresh.fd, name_of(socket), 0777, true));
    FERMATA_ASSIGN_STATUS(
        [[maybe_unused]] const long listens,
        fresh.process->call("listen", SYS_listen, {static_cast<uint64_t>(fresh.fd), 1}));
    FERMATA_TRY(connect_name(*client.process, client.fd, name_of(socket)));
    FERMATA_ASSIGN_STATUS(listener, fresh.take());
    if (socket.unlinked() && !name_of(socket).is_abstract()) {
      FERMATA_ASSIGN_STATUS(const uint64_t path, fresh.process->put_string(name_of(socket).path()));
      (void)fresh.process->call("unlink", SYS_unlinkat, {static_cast<uint64_t>(AT_FDCWD), path, 0});
    }
    return Status::ok();
  }

  Status finish(const image::File& file, RebuildContext& context) {
    const UnixSocket& socket = file.unix_socket();
    const int fd = context.created(file.id());
    if (socket.listening()) return apply_options_late(fd, socket.options());
    if (is_pair(file)) {
      const image::File& other = *files_.at(socket.peer_file());
      finished_.insert(other.id());
      const int there = context.created(other.id());
      FERMATA_TRY(fill(file, there, context));
      FERMATA_TRY(fill(other, fd, context));
      FERMATA_TRY(close_sides(file, fd));
      return close_sides(other, there);
    }
    if (socket.peer_closed()) {
      FERMATA_TRY(fill(file, closed_ends_.at(file.id()).get(), context));
      // A closing end that has not read everything resets the connection (unix_release_sock).
      if (socket.peer_reset()) ::send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
      closed_ends_.erase(file.id());
      return close_sides(file, fd);
    }
    FERMATA_TRY(fill(file, -1, context));
    const uint32_t target = socket.waits_at() != 0 ? socket.waits_at() : socket.peer_file();
    if (target != 0) {
      FERMATA_ASSIGN_STATUS(Remote * process, context.remote(file.creator()));
      FERMATA_TRY(
          connect_name(*process, file.creator_fd(), name_of(files_.at(target)->unix_socket())));
    }
    return close_sides(file, fd);
  }

  static Status close_sides(const image::File& file, int fd) {
    const UnixSocket& socket = file.unix_socket();
    FERMATA_TRY(apply_options_late(fd, socket.options()));
    if ((socket.shutdown() & kNoSend) != 0) ::shutdown(fd, SHUT_WR);
    if ((socket.shutdown() & kNoReceive) != 0) ::shutdown(fd, SHUT_RD);
    return Status::ok();
  }

  // Sends the unread messages of `file` again: from `sender`, or (-1) each from where it came.
  Status fill(const image::File& file, int sender, RebuildContext& context) {
    const UnixSocket& socket = file.unix_socket();
    if (socket.messages_size() == 0) return Status::ok();
    const bool credentials =
        socket_option(context.created(file.id()), SOL_SOCKET, SO_PASSCRED) == 1;
    for (const image::SocketMessage& message : socket.messages()) {
      int vpid = message.sender_vpid();
      if (credentials && vpid == 0 && socket.peer_file() != 0) {
        vpid = files_.at(socket.peer_file())->creator();
      }
      if (sender >= 0) {
        FERMATA_TRY(send_message(sender, message, {}, credentials ? vpid : 0, context));
        continue;
      }
      const UniqueFd temporary(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      if (!temporary) return errno_status(errno, "a UNIX socket");
      const image::File* source = source_of(message);
      const int from = source != nullptr ? context.created(source->id()) : temporary.get();
      UniqueFd place;
      FERMATA_ASSIGN_STATUS(const std::string address, reachable(file, context, place));
      FERMATA_TRY(send_message(from, message, address, credentials ? vpid : 0, context));
      if (source != nullptr) {
        FERMATA_TRY(apply_options_late(from, source->unix_socket().options()));
      }
    }
    return Status::ok();
  }

  const image::File* source_of(const image::SocketMessage& message) const {
    if (message.source().empty()) return nullptr;
    for (const auto& [id, file] : files_) {
      if (file->unix_socket().name() == message.source()) return file;
    }
    return nullptr;
  }

  // The address at which we, outside the pod's mounts, reach a bound socket of it. `place` keeps it
  // valid.
  static Result<std::string> reachable(const image::File& file, RebuildContext& context,
                                       UniqueFd& place) {
    const UnixName name = name_of(file.unix_socket());
    if (name.empty()) return failure(Code::kDamaged, "messages for a socket without name or peer");
    if (name.is_abstract()) return name.address;
    std::string path(name.path());
    if (!path.starts_with('/')) path = name.directory + "/" + path;
    FERMATA_ASSIGN(place, context.open_in_pod(file.creator(), path, O_PATH | O_NOFOLLOW, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const std::string link = fmt::format("/proc/self/fd/{}", place.get());
    link.copy(address.sun_path, sizeof address.sun_path - 1);
    return std::string(reinterpret_cast<const char*>(&address),
                       offsetof(sockaddr_un, sun_path) + link.size() + 1);
  }

  static Status send_message(int from, const image::SocketMessage& message, std::string address,
                             int sender_vpid, RebuildContext& context) {
    FERMATA_TRY(make_room(from, message.data().size(), 0));
    std::string data = message.data();
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred))> control{};
    msghdr header{};
    if (!address.empty()) {
      header.msg_name = address.data();
      header.msg_namelen = static_cast<socklen_t>(address.size());
    }
    if (sender_vpid > 0) {
      FERMATA_ASSIGN_STATUS(Remote * process, context.remote(sender_vpid));
      FERMATA_ASSIGN_STATUS(const long uid, process->call("getuid", SYS_getuid));
      FERMATA_ASSIGN_STATUS(const long gid, process->call("getgid", SYS_getgid));
      const ucred credentials{process->pid(), static_cast<uid_t>(uid), static_cast<gid_t>(gid)};
      header.msg_control = control.data();
      header.msg_controllen = control.size();
      cmsghdr* part = CMSG_FIRSTHDR(&header);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_CREDENTIALS;
      part->cmsg_len = CMSG_LEN(sizeof credentials);
      std::memcpy(CMSG_DATA(part), &credentials, sizeof credentials);
    }
    size_t at = 0;
    do {  // once for an empty datagram
      iovec vector{data.data() + at, data.size() - at};
      header.msg_iov = &vector;
      header.msg_iovlen = 1;
      const ssize_t n = ::sendmsg(from, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0) return errno_status(errno, "filling a UNIX socket's queue");
      at += static_cast<size_t>(n);
    } while (at < data.size());
    return Status::ok();
  }

  // Of a capture.
  bool listed_ = false;
  std::map<uint64_t, UnixSocketEntry> entries_;
  std::map<uint32_t, std::string> seen_;  // by file id: for sentences
  std::map<uint32_t, int> sent_;          // bytes the other end has not read
  std::map<uint64_t, uint32_t> by_inode_;
  // Of a rebuild. An end made along with another waits in made_ until its own create().
  std::map<uint32_t, const image::File*> files_;
  std::map<uint32_t, UniqueFd> made_;
  std::map<uint32_t, UniqueFd> closed_ends_;
  std::set<uint32_t> finished_;
};

}  // namespace

std::unique_ptr<FileKind> make_unix_socket_kind() { return std::make_unique<UnixSocketKind>(); }

}  // namespace fermata::engine
