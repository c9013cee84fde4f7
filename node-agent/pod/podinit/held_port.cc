#include "node-agent/pod/podinit/held_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <random>
#include <sstream>

#include "common/file_util.h"

namespace fermata::pod {
namespace {

constexpr uint32_t kFirst = 1024;   // below are the services of the system
constexpr uint32_t kMost = 16'384;  // of them that are looked at
constexpr uint32_t kDefaultLow = 32'768;

/// Bound, not listening; unset: somebody has it.
std::optional<UniqueFd> hold(uint32_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  // Without SO_REUSEADDR: so nobody else has it, or gets it by the same way.
  if (!fd || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return std::nullopt;
  }
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) return std::nullopt;
  return fd;
}

}  // namespace

Result<HeldPort> HeldPort::choose() {
  uint32_t low = kDefaultLow;
  std::istringstream(read_file("/proc/sys/net/ipv4/ip_local_port_range").value_or("")) >> low;
  const uint32_t first = std::max(kFirst, low - std::min(low, kMost));
  if (low > first) {
    const uint32_t count = low - first;
    std::random_device random;
    const uint32_t start = std::uniform_int_distribution<uint32_t>(0, count - 1)(random);
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t port = first + (start + i) % count;
      std::optional<UniqueFd> socket = hold(port);
      if (socket) return HeldPort(*std::move(socket), static_cast<uint16_t>(port));
    }
  }
  return failure(Code::kUnsupported,
                 "no TCP port below those that the kernel gives to anybody is free "
                 "(/proc/sys/net/ipv4/ip_local_port_range)");
}

}  // namespace fermata::pod
