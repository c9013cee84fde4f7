#include "node-agent/engine/unix_capture.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstddef>
#include <filesystem>
#include <vector>

#include "common/try_again.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/obstacles.h"
#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/unix_name.h"

namespace fermata::engine {
namespace {

using image::UnixSocket;

constexpr int kListening = 10;                           // TCP_LISTEN, which UNIX sockets use too
constexpr unsigned long kSocketFile = SIOCPROTOPRIVATE;  // SIOCUNIXFILE, <linux/un.h>

std::string own_address(int fd, bool peer) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if ((peer ? ::getpeername(fd, generic, &size) : ::getsockname(fd, generic, &size)) != 0)
    return {};
  if (size <= sizeof(sa_family_t)) return {};
  return {reinterpret_cast<const char*>(&address), size};
}

Status capture_path(const FileProbe& probe, UnixSocket& socket) {
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

Status capture_queue(const FileProbe& probe, CaptureContext& context, UnixSocket& socket) {
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

}  // namespace

Status UnixCapture::list() {
  if (listed_) return Status::ok();
  FERMATA_ASSIGN_STATUS(std::vector<UnixSocketEntry> all, list_unix_sockets());
  for (UnixSocketEntry& entry : all) entries_.emplace(entry.inode, std::move(entry));
  listed_ = true;
  return Status::ok();
}

Status UnixCapture::record(const FileProbe& probe, CaptureContext& context, image::File& out) {
  FERMATA_TRY(list());
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

Status UnixCapture::pair(image::PodObjects& objects) const {
  std::map<uint64_t, uint32_t> waits_at;  // inode of a client: file id of the listener
  Obstacles obstacles;
  for (const auto& [inode, id] : by_inode_) {
    for (const uint64_t client : entries_.at(inode).waiting) {
      if (by_inode_.contains(client)) {
        waits_at[client] = id;
      } else {
        FERMATA_TRY(obstacles.note(
            refuse_now(id,
                       "a connection from outside the job, or one that ended already, waits to be "
                       "accepted")));
      }
    }
  }
  std::set<std::string> names;
  for (const image::File& file : objects.files()) {
    if (file.has_unix_socket()) names.insert(file.unix_socket().name());
  }
  for (image::File& file : *objects.mutable_files()) {
    if (!file.has_unix_socket()) continue;
    FERMATA_TRY(obstacles.note(place(file, waits_at, names)));
  }
  return obstacles.sum();
}

Status UnixCapture::refuse_file(const image::File& file, std::string_view why) const {
  return {Code::kCannotHold, fmt::format("{}: {}", seen_.at(file.id()), why)};
}

Status UnixCapture::refuse_now(uint32_t file, std::string_view why) const {
  return {Code::kBusy, fmt::format("{}: {}{}", seen_.at(file), why, kTryAgain)};
}

// Finds the other end of a connection.
Status UnixCapture::place(image::File& file, const std::map<uint64_t, uint32_t>& waits_at,
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
      return refuse_now(file.id(),
                        "what it sent over a connection that is not accepted yet cannot be read");
    }
    socket.set_waits_at(listener->second);
    return Status::ok();
  }
  socket.set_peer_closed(true);
  return Status::ok();
}

// Every sender with a name must be there to send its messages again.
Status UnixCapture::check_sources(const image::File& file,
                                  const std::set<std::string>& names) const {
  if (file.unix_socket().type() != SOCK_DGRAM) return Status::ok();
  for (const image::SocketMessage& message : file.unix_socket().messages()) {
    if (message.source().empty() || names.contains(message.source())) continue;
    return refuse_now(file.id(),
                      fmt::format("a message from '{}', which is closed or outside the job, waits "
                                  "to be read",
                                  UnixName{message.source(), {}}.text()));
  }
  return Status::ok();
}

}  // namespace fermata::engine
