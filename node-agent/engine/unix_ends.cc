#include "node-agent/engine/unix_ends.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <string_view>
#include <utility>

#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/unix_name.h"

namespace fermata::engine {
namespace {

using image::UnixSocket;

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

Result<Foreign> foreign_socket(RebuildContext& context, int vpid, int type) {
  FERMATA_ASSIGN(Remote * process, context.remote(vpid));
  FERMATA_ASSIGN(const long fd,
                 process->call("socket", SYS_socket,
                               {AF_UNIX, static_cast<uint64_t>(type) | SOCK_CLOEXEC, 0}));
  return Foreign{process, static_cast<int>(fd)};
}

// The process to make an end in: who SO_PEERCRED of the other end shows, where it is one of the
// pod's.
int maker(RebuildContext& context, int credentials, int otherwise) {
  return credentials > 0 && context.remote(credentials) ? credentials : otherwise;
}

// The listener is gone from the image: one for this connection alone. Its path stays only if it
// was there.
Status connect_through(RebuildContext& context, int vpid, const image::File& accepted,
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

}  // namespace

Status UnixEnds::check(const image::File& file) const {
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
        (socket.type() != SOCK_DGRAM && peer->second->unix_socket().peer_file() != file.id())) {
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

bool UnixEnds::is_pair(const image::File& file) const {
  const uint32_t peer = file.unix_socket().peer_file();
  return peer != 0 && files_.at(peer)->unix_socket().peer_file() == file.id();
}

// The image's listener that has this name, if any: a connection accepted there has the name too.
const image::File* UnixEnds::listener_named(const std::string& name, int type) const {
  for (const auto& [id, file] : files_) {
    const UnixSocket& socket = file->unix_socket();
    if (socket.listening() && socket.name() == name && socket.type() == type) return file;
  }
  return nullptr;
}

Status UnixEnds::provide(const image::File& file, RebuildContext& context) {
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

Status UnixEnds::keep(const image::File& file, UniqueFd fd) {
  FERMATA_TRY(apply_options_early(fd.get(), file.unix_socket().options()));
  made_[file.id()] = std::move(fd);
  return Status::ok();
}

// Both ends of a connection; `other` null: an end that its program has closed.
Status UnixEnds::make_pair(const image::File& file, const image::File* other,
                           RebuildContext& context) {
  const UnixSocket& socket = file.unix_socket();
  const auto named = [&](const image::File* one) {
    return one != nullptr && !one->unix_socket().name().empty();
  };
  if (socket.type() != SOCK_DGRAM && (named(&file) || named(other))) {
    // The accepted end is the one with the name, or with its listener's name where both have one.
    const bool here =
        named(&file) && (!named(other) || listener_named(socket.name(), socket.type()) != nullptr);
    return here ? accept_pair(file, other, context) : accept_pair(*other, &file, context);
  }
  const int vpid = maker(context, socket.peer_credentials(), file.creator());
  FERMATA_ASSIGN_STATUS(SocketPair pair, socketpair_in_pod(context, vpid, AF_UNIX, socket.type()));
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
Status UnixEnds::name_end(const image::File& file, RebuildContext& context) {
  const UnixSocket& socket = file.unix_socket();
  if (socket.name().empty()) return Status::ok();
  FERMATA_ASSIGN_STATUS(Remote * process, context.remote(file.creator()));
  FERMATA_ASSIGN_STATUS(const int fd, process->give_fd(made_.at(file.id()).get(), -1, true));
  Status status = bind_name(*process, fd, name_of(socket), socket.mode(), !socket.unlinked());
  (void)process->call("close", SYS_close, {static_cast<uint64_t>(fd)});
  return status;
}

// `accepted` comes out of a listener of its name, to which the other end connects.
Status UnixEnds::accept_pair(const image::File& accepted, const image::File* client,
                             RebuildContext& context) {
  const UnixSocket& socket = accepted.unix_socket();
  const image::File* real = listener_named(socket.name(), socket.type());
  UniqueFd temporary;
  int listener = -1;
  UnixName name = name_of(socket);
  if (real != nullptr) {
    FERMATA_TRY(provide(*real, context));
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

Result<UniqueFd> UnixEnds::make(const image::File& file, RebuildContext& context) {
  FERMATA_TRY_RESULT(provide(file, context));
  return std::move(made_.at(file.id()));
}

UniqueFd UnixEnds::take_closed_end(const image::File& file) {
  return std::move(closed_ends_.at(file.id()));
}

}  // namespace fermata::engine
