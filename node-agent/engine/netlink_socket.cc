// Netlink sockets of the route protocol (interfaces and addresses: getifaddrs(3) and its like) with
// nothing to read. Others are refused.
#include <fmt/format.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"
#include "node-agent/engine/socket_support.h"

namespace fermata::engine {
namespace {

class NetlinkSocketKind : public FileKind {
 public:
  bool matches(const FileProbe& probe) const override {
    return S_ISSOCK(probe.status.st_mode) &&
           socket_option(probe.dup.get(), SOL_SOCKET, SO_DOMAIN) == AF_NETLINK &&
           socket_option(probe.dup.get(), SOL_SOCKET, SO_PROTOCOL) == NETLINK_ROUTE;
  }

  Status capture(const FileProbe& probe, CaptureContext&, image::File& out) override {
    const int fd = probe.dup.get();
    pollfd state{fd, POLLIN, 0};
    if (::poll(&state, 1, 0) < 0) return errno_status(errno, probe.describe());
    if ((state.revents & POLLIN) != 0) {
      return refuse_now(probe, "an answer of the kernel waits to be read from this netlink socket");
    }
    sockaddr_nl address{};
    socklen_t size = sizeof address;
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      return errno_status(errno, fmt::format("{}: getsockname", probe.describe()));
    }
    image::NetlinkFile& netlink = *out.mutable_netlink();
    netlink.set_type(socket_option(fd, SOL_SOCKET, SO_TYPE));
    netlink.set_port_id(address.nl_pid);
    netlink.set_groups(address.nl_groups);
    return Status::ok();
  }

  bool owns(const image::File& file) const override { return file.has_netlink(); }

  Result<UniqueFd> create(const image::File& file, RebuildContext& context) override {
    const image::NetlinkFile& netlink = file.netlink();
    if (netlink.type() != SOCK_RAW && netlink.type() != SOCK_DGRAM) {
      return failure(Code::kDamaged, fmt::format("{}: no netlink socket", holder_of(file)));
    }
    FERMATA_ASSIGN(UniqueFd fd, socket_in_pod(context, file.creator(), AF_NETLINK, netlink.type(),
                                              NETLINK_ROUTE));
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_pid = netlink.port_id();
    address.nl_groups = netlink.groups();
    const auto bind_to = [&] {
      return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    };
    // The number is a return address, of no meaning to the other side: another one does as well.
    if ((address.nl_pid != 0 || address.nl_groups != 0) && bind_to() != 0) {
      address.nl_pid = 0;
      if (bind_to() != 0) return errno_failure(errno, fmt::format("{}: netlink", holder_of(file)));
    }
    FERMATA_TRY_RESULT(set_status_flags(fd.get(), file.flags()));
    return fd;
  }
};

}  // namespace

std::unique_ptr<FileKind> make_netlink_socket_kind() {
  return std::make_unique<NetlinkSocketKind>();
}

}  // namespace fermata::engine
