#include "node-agent/engine/socket_diag.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>

#include "common/unique_fd.h"

namespace fermata::engine {
namespace {

constexpr uint16_t kSockDestroy = 21;  // SOCK_DESTROY
constexpr uint32_t kAllStates = 0xffffffff;

template <typename Request>
struct Message {
  nlmsghdr header{};
  Request request{};
};

// Sends a request and hands every answer to `each`, up to the end of the dump or the
// acknowledgement.
template <typename Request>
Status ask(uint16_t type, uint16_t flags, const Request& request,
           const std::function<void(const nlmsghdr&)>& each) {
  const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!socket) return errno_status(errno, "a sock_diag socket");
  Message<Request> message;
  message.header.nlmsg_len = sizeof message;
  message.header.nlmsg_type = type;
  message.header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  message.request = request;
  if (::send(socket.get(), &message, sizeof message, 0) < 0) {
    return errno_status(errno, "asking the kernel for its sockets (sock_diag)");
  }
  alignas(nlmsghdr) std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t got = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
    if (got < 0) return errno_status(errno, "reading the kernel's sockets (sock_diag)");
    auto left = static_cast<unsigned>(got);
    for (auto* header = reinterpret_cast<const nlmsghdr*>(buffer.data()); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE) return Status::ok();
      if (header->nlmsg_type == NLMSG_ERROR) {
        const auto* error = static_cast<const nlmsgerr*>(NLMSG_DATA(header));
        if (error->error == 0) return Status::ok();
        return errno_status(-error->error, "sock_diag");
      }
      each(*header);
    }
  }
}

InetSocket inet_socket(const nlmsghdr& header) {
  const auto& message = *static_cast<const inet_diag_msg*>(NLMSG_DATA(&header));
  InetSocket socket;
  socket.local =
      InetAddress(&message.id.idiag_src, message.idiag_family, ntohs(message.id.idiag_sport));
  socket.remote =
      InetAddress(&message.id.idiag_dst, message.idiag_family, ntohs(message.id.idiag_dport));
  socket.state = message.idiag_state;
  socket.inode = message.idiag_inode;
  socket.receive_queue = message.idiag_rqueue;
  socket.send_queue = message.idiag_wqueue;
  socket.cookie = message.id.idiag_cookie[0] | uint64_t{message.id.idiag_cookie[1]} << 32;
  auto left = static_cast<unsigned>(NLMSG_PAYLOAD(&header, sizeof message));
  for (const auto* attribute = reinterpret_cast<const rtattr*>(&message + 1);
       RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    if (attribute->rta_type == INET_DIAG_CGROUP_ID &&
        RTA_PAYLOAD(attribute) == sizeof socket.group) {
      std::memcpy(&socket.group, RTA_DATA(attribute), sizeof socket.group);
    }
  }
  return socket;
}

UnixSocketEntry unix_socket(const nlmsghdr& header) {
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(&header));
  UnixSocketEntry entry;
  entry.inode = message->udiag_ino;
  entry.type = message->udiag_type;
  entry.state = message->udiag_state;
  auto left = static_cast<unsigned>(NLMSG_PAYLOAD(&header, sizeof *message));
  for (auto* attribute = reinterpret_cast<const rtattr*>(message + 1); RTA_OK(attribute, left);
       attribute = RTA_NEXT(attribute, left)) {
    const auto* data = static_cast<const char*>(RTA_DATA(attribute));
    const size_t size = RTA_PAYLOAD(attribute);
    switch (attribute->rta_type) {
      case UNIX_DIAG_NAME:
        entry.path.assign(data, size);
        break;
      case UNIX_DIAG_PEER: {
        uint32_t peer = 0;
        std::memcpy(&peer, data, sizeof peer);
        entry.has_peer = true;
        entry.peer = peer;
        break;
      }
      case UNIX_DIAG_VFS: {
        unix_diag_vfs vfs{};
        std::memcpy(&vfs, data, sizeof vfs);
        // The kernel's own dev_t: 12 bits major, 20 bits minor (include/linux/kdev_t.h).
        entry.file_device = makedev(vfs.udiag_vfs_dev >> 20, vfs.udiag_vfs_dev & 0xfffff);
        entry.file_inode = vfs.udiag_vfs_ino;
        break;
      }
      case UNIX_DIAG_ICONS:
        for (size_t at = 0; at + sizeof(uint32_t) <= size; at += sizeof(uint32_t)) {
          uint32_t inode = 0;
          std::memcpy(&inode, data + at, sizeof inode);
          entry.waiting.push_back(inode);
        }
        break;
      case UNIX_DIAG_RQLEN: {
        unix_diag_rqlen length{};
        std::memcpy(&length, data, sizeof length);
        entry.backlog = length.udiag_wqueue;
        break;
      }
      case UNIX_DIAG_SHUTDOWN:
        entry.shutdown = static_cast<uint8_t>(*data);
        break;
      default:
        break;
    }
  }
  return entry;
}

}  // namespace

Result<std::vector<InetSocket>> list_inet_sockets(int protocol) {
  std::vector<InetSocket> sockets;
  for (const int family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 request{};
    request.sdiag_family = static_cast<uint8_t>(family);
    request.sdiag_protocol = static_cast<uint8_t>(protocol);
    request.idiag_states = kAllStates;
    FERMATA_TRY_RESULT(ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request, [&](const nlmsghdr& header) {
      sockets.push_back(inet_socket(header));
    }));
  }
  return sockets;
}

Status destroy_time_wait(const InetSocket& socket) {
  if (socket.state != TCP_TIME_WAIT) {
    return {Code::kInternal, fmt::format("{} is not in TIME_WAIT", socket.local.text())};
  }
  inet_diag_req_v2 request{};
  request.sdiag_family = static_cast<uint8_t>(socket.local.family());
  request.sdiag_protocol = IPPROTO_TCP;
  request.idiag_states = 1U << TCP_TIME_WAIT;
  request.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
  request.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  request.id.idiag_sport = htons(socket.local.port());
  request.id.idiag_dport = htons(socket.remote.port());
  const auto copy = [](const InetAddress& from, void* to) {
    if (from.family() == AF_INET) {
      std::memcpy(to, &reinterpret_cast<const sockaddr_in*>(from.get())->sin_addr, 4);
    } else {
      std::memcpy(to, &reinterpret_cast<const sockaddr_in6*>(from.get())->sin6_addr, 16);
    }
  };
  copy(socket.local, &request.id.idiag_src);
  copy(socket.remote, &request.id.idiag_dst);
  return ask(kSockDestroy, NLM_F_ACK, request, [](const nlmsghdr&) {});
}

Result<std::vector<UnixSocketEntry>> list_unix_sockets() {
  std::vector<UnixSocketEntry> sockets;
  unix_diag_req request{};
  request.sdiag_family = AF_UNIX;
  request.udiag_states = kAllStates;
  request.udiag_show =
      UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN;
  FERMATA_TRY_RESULT(ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request,
                         [&](const nlmsghdr& header) { sockets.push_back(unix_socket(header)); }));
  return sockets;
}

std::string holder_of_socket(uint64_t inode) {
  const std::string want = fmt::format("socket:[{}]", inode);
  std::error_code ignored;
  for (const auto& process : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = process.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    for (const auto& fd : std::filesystem::directory_iterator(process.path() / "fd", ignored)) {
      if (std::filesystem::read_symlink(fd.path(), ignored) != want) continue;
      std::ifstream in(process.path() / "comm");
      std::string program;
      std::getline(in, program);
      return fmt::format("process {} ({})", name, program);
    }
  }
  return "another process";
}

}  // namespace fermata::engine
