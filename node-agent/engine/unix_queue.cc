#include "node-agent/engine/unix_queue.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "node-agent/engine/socket_options.h"
#include "node-agent/engine/socket_support.h"
#include "node-agent/engine/unix_name.h"

namespace fermata::engine {
namespace {

const image::File* source_of(const UnixFiles& files, const image::SocketMessage& message) {
  if (message.source().empty()) return nullptr;
  for (const auto& [id, file] : files) {
    if (file->unix_socket().name() == message.source()) return file;
  }
  return nullptr;
}

// The address at which we, outside the pod's mounts, reach a bound socket of it. `place` keeps it
// valid.
Result<std::string> reachable(const image::File& file, RebuildContext& context, UniqueFd& place) {
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

Status send_message(int from, const image::SocketMessage& message, std::string address,
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

}  // namespace

Status fill_unix_queue(const UnixFiles& files, const image::File& file, int sender,
                       RebuildContext& context) {
  const image::UnixSocket& socket = file.unix_socket();
  if (socket.messages_size() == 0) return Status::ok();
  const bool credentials = socket_option(context.created(file.id()), SOL_SOCKET, SO_PASSCRED) == 1;
  for (const image::SocketMessage& message : socket.messages()) {
    int vpid = message.sender_vpid();
    if (credentials && vpid == 0 && socket.peer_file() != 0) {
      vpid = files.at(socket.peer_file())->creator();
    }
    if (sender >= 0) {
      FERMATA_TRY(send_message(sender, message, {}, credentials ? vpid : 0, context));
      continue;
    }
    const UniqueFd temporary(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!temporary) return errno_status(errno, "a UNIX socket");
    const image::File* source = source_of(files, message);
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

}  // namespace fermata::engine
