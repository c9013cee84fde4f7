#include "node-agent/own_address.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "common/unique_fd.h"
#include "node-agent/addresses.h"

namespace fermata::node_agent {
namespace {

struct InfoFreer {
  void operator()(addrinfo* info) const { freeaddrinfo(info); }
};

/// The kernel's choice of address: connecting a datagram socket sends nothing (udp(7)).
engine::InetAddress chosen_for(const addrinfo& target) {
  const UniqueFd fd(socket(target.ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd || connect(fd.get(), target.ai_addr, target.ai_addrlen) != 0) return {};
  const Result<engine::InetAddress> local = engine::InetAddress::local_of(fd.get());
  return local ? local->with_port(0) : engine::InetAddress();
}

}  // namespace

Result<engine::InetAddress> own_address_towards(const std::string& host_and_port) {
  const size_t colon = host_and_port.rfind(':');
  std::string host = host_and_port.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  const std::string port = colon == std::string::npos ? "0" : host_and_port.substr(colon + 1);
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  const std::unique_ptr<addrinfo, InfoFreer> targets(found);
  if (error != 0) {
    return failure(Code::kNotFound, fmt::format("{}: {}", host_and_port, gai_strerror(error)));
  }
  engine::InetAddress own;
  for (const addrinfo* target = targets.get(); target != nullptr && own.empty();
       target = target->ai_next) {
    own = chosen_for(*target);
  }
  if (own.empty()) {
    return failure(Code::kNotFound, fmt::format("there is no way to {}", host_and_port));
  }
  if (!own.is_loopback()) return own;
  FERMATA_ASSIGN(const std::vector<NodeAddress> all, addresses_of_this_node());
  const auto global = std::find_if(all.begin(), all.end(), [](const NodeAddress& address) {
    return is_global(address.address);
  });
  return global == all.end() ? own : global->address;
}

}  // namespace fermata::node_agent
