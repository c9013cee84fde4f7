#include "node-agent/engine/tcp_ports.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "node-agent/engine/socket_diag.h"
#include "node-agent/engine/tcp_states.h"

namespace fermata::engine {
namespace {

constexpr auto kAddressPatience = std::chrono::seconds(3);
constexpr auto kPortPatience = std::chrono::milliseconds(100);
constexpr auto kAddressPause = std::chrono::milliseconds(50);
constexpr auto kPortPause = std::chrono::milliseconds(5);

// Not to be had on every kernel (CONFIG_INET_DIAG_DESTROY); then the caller's patience helps.
void take_off(const InetSocket& socket) {
  if (socket.state == kTimeWait) (void)destroy_time_wait(socket);
}

// Takes connections of the past off a port; kConflict names who else has it.
Status free_port(const InetAddress& local, const InetAddress* remote) {
  FERMATA_ASSIGN_STATUS(const std::vector<InetSocket> all, list_inet_sockets(IPPROTO_TCP));
  for (const InetSocket& socket : all) {
    if (socket.local.port() != local.port()) continue;
    const bool same = remote == nullptr ||
                      (socket.local.key() == local.key() && socket.remote.key() == remote->key());
    if (!same) continue;
    take_off(socket);
    if (socket.inode != 0 && (remote != nullptr || socket.state == kListen)) {
      return {Code::kConflict,
              fmt::format("TCP port {} is taken by {}; end it, or restart the job on another host",
                          local.port(), holder_of_socket(socket.inode)),
              EADDRINUSE};
    }
  }
  return Status::ok();
}

}  // namespace

Status with_patience(const InetAddress& local, const InetAddress* remote,
                     const std::function<Status()>& step) {
  const auto deadline = std::chrono::steady_clock::now() + kAddressPatience;
  for (;;) {
    Status status = step();
    const int error = status.error_number();
    if (error != EADDRINUSE && error != EADDRNOTAVAIL) return status;
    if (error == EADDRNOTAVAIL && !local.is_wildcard() && !local.is_local()) {
      return {Code::kConflict,
              fmt::format("this host does not have the address of {}; restart the job on the "
                          "host it ran on",
                          local.text()),
              error};
    }
    FERMATA_TRY(free_port(local, remote));
    if (std::chrono::steady_clock::now() > deadline) {
      return {Code::kConflict,
              fmt::format("TCP address {} is still in use (by connections in TIME_WAIT, or by a "
                          "socket that nobody has open): {}; try again in a minute",
                          local.text(), status.message()),
              error};
    }
    std::this_thread::sleep_for(kAddressPause);
  }
}

Status unless_taken(const InetAddress& local, const std::function<Status()>& step) {
  const auto deadline = std::chrono::steady_clock::now() + kPortPatience;
  for (;;) {
    Status status = step();
    if (status.error_number() != EADDRINUSE || std::chrono::steady_clock::now() > deadline) {
      return status;
    }
    FERMATA_ASSIGN_STATUS(const std::vector<InetSocket> all, list_inet_sockets(IPPROTO_TCP));
    for (const InetSocket& socket : all) {
      if (socket.local.port() != local.port()) continue;
      if (socket.inode != 0) return status;
      take_off(socket);
    }
    std::this_thread::sleep_for(kPortPause);
  }
}

}  // namespace fermata::engine
