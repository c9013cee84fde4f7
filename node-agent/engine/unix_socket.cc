// UNIX sockets whose other ends are in the pod: pairs, connections by name, listeners, datagram
// sockets; with their unread messages, shut-down sides and names.
//
// Ends find each other by the inode numbers of sock_diag(7). A connection is rebuilt as a
// socketpair(2) where both ends have the same SO_PEERCRED process and no name; else by a real
// connect to a listener of that name, made by the processes that SO_PEERCRED is to show. Queues are
// filled by sending from the other end, which a closed end needs for a moment too.
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdint>
#include <set>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/socket_diag.h"
#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/unix_capture.h"
#include "node-agent/engine/unix_ends.h"
#include "node-agent/engine/unix_name.h"
#include "node-agent/engine/unix_queue.h"

namespace fermata::engine {
namespace {

using image::UnixSocket;

class UnixSocketKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    return S_ISSOCK(probe.status.st_mode) &&
           socket_option(probe.dup.get(), SOL_SOCKET, SO_DOMAIN) == AF_UNIX;
  }

  Status capture(const FileProbe& probe, CaptureContext& context, image::File& out) override {
    return capture_.record(probe, context, out);
  }

  Status finish_capture(CaptureContext&, image::PodObjects& objects) override {
    return capture_.pair(objects);
  }

  bool owns(const image::File& file) const override { return file.has_unix_socket(); }

  Status start_rebuild(const image::PodObjects& objects, RebuildContext&) override {
    for (const image::File& file : objects.files()) {
      if (file.has_unix_socket()) files_[file.id()] = &file;
    }
    for (const auto& [id, file] : files_) FERMATA_TRY(ends_.check(*file).within(holder_of(*file)));
    return Status::ok();
  }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    Result<UniqueFd> fd = ends_.make(file, context);
    if (!fd) return Failure(fd.error().within(holder_of(file)));
    FERMATA_TRY_RESULT(set_status_flags(fd->get(), file.flags()));
    return fd;
  }

  Status connect(const image::File& file, RebuildContext& context) override {
    if (!finished_.insert(file.id()).second) return Status::ok();
    return finish(file, context).within(holder_of(file));
  }

 private:
  Status finish(const image::File& file, RebuildContext& context) {
    const UnixSocket& socket = file.unix_socket();
    const int fd = context.created(file.id());
    if (socket.listening()) return apply_options_late(fd, socket.options());
    if (ends_.is_pair(file)) {
      const image::File& other = *files_.at(socket.peer_file());
      finished_.insert(other.id());
      const int there = context.created(other.id());
      FERMATA_TRY(fill_unix_queue(files_, file, there, context));
      FERMATA_TRY(fill_unix_queue(files_, other, fd, context));
      FERMATA_TRY(close_sides(file, fd));
      return close_sides(other, there);
    }
    if (socket.peer_closed()) {
      {
        const UniqueFd closing = ends_.take_closed_end(file);
        FERMATA_TRY(fill_unix_queue(files_, file, closing.get(), context));
        // A closing end that has not read everything resets the connection (unix_release_sock).
        if (socket.peer_reset()) ::send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
      }
      return close_sides(file, fd);
    }
    FERMATA_TRY(fill_unix_queue(files_, file, -1, context));
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

  UnixCapture capture_;
  UnixFiles files_;  // of a rebuild
  UnixEnds ends_{files_};
  std::set<uint32_t> finished_;
};

}  // namespace

std::unique_ptr<FileKind> make_unix_socket_kind() { return std::make_unique<UnixSocketKind>(); }

}  // namespace fermata::engine
