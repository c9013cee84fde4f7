// Pulls a pod's network cable and puts it back, and keeps the addresses that its programs know true
// after a restart elsewhere: BPF programs attached to the pod's cgroup v2 group (cgroup_skb,
// cgroup_sock_addr; Linux 5.8). They outlive the agent; find() takes them over. Any thread, one at
// a time.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>

#include "common/status.h"
#include "proto/addresses.pb.h"

namespace fermata::isolation {

class Isolation {
 public:
  /// Attaches to a group that holds no process yet: sockets belong to the group they were made in.
  static Result<Isolation> install(const std::filesystem::path& group);
  /// What install() left on a group, the translations included. kNotFound.
  static Result<Isolation> find(const std::filesystem::path& group);

  Isolation(Isolation&&) noexcept;
  Isolation& operator=(Isolation&&) noexcept;
  Isolation(const Isolation&) = delete;
  Isolation& operator=(const Isolation&) = delete;
  /// Leaves the programs where they are. A cut ends when its time is over, whoever died.
  ~Isolation();

  /// Every packet to or from the pod's sockets is dropped from now on, for `at_most` at the longest
  /// (the kernel's CLOCK_MONOTONIC). One store.
  void cut(std::chrono::nanoseconds at_most);
  /// Whether the cut has held without a gap until now.
  bool still_cut() const;
  /// Packets flow again. One store.
  void join();

  /// `from`: an address as the pod's programs know it; `to`: the one on the wire. Port 0: every
  /// port of the host that has no entry of its own; protocol 0: any. Replaces all before.
  /// connect(2), sendmsg(2) and bind(2) go from -> to; getsockname(2), getpeername(2), accept(2),
  /// recvmsg(2) come back to -> from.
  Status set_addresses(const image::AddressMap& addresses);
  /// What set_addresses() was given last, also by an agent that died.
  Result<image::AddressMap> addresses() const;

 private:
  struct State;
  explicit Isolation(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Whether this kernel takes the programs; the sentence names what is missing.
Status supported();

}  // namespace fermata::isolation
