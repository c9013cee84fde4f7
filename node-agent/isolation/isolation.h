// Pulls a pod's network cable and puts it back, and keeps the addresses that its programs know true
// after a restart elsewhere: BPF programs attached to the pod's cgroup v2 group (cgroup_skb,
// cgroup_sock_addr, sock_ops; Linux 5.10). They outlive the agent and go with the group; find()
// takes them over. Any thread, one at a time. README.md tells how it works and what it cannot do.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>

#include "common/status.h"
#include "proto/addresses.pb.h"

namespace fermata::isolation {

class Isolation {
 public:
  /// Attaches to a group that holds no process yet (else kConflict): sockets belong to the group
  /// they were made in. What a dead agent left on it is replaced; programs of others stay. Also
  /// kConflict: a program above lets none stand beside it. kPermission, kUnsupported: supported().
  static Result<Isolation> install(const std::filesystem::path& group);
  /// What install() left on a group, a cut and the translations included. kNotFound.
  static Result<Isolation> find(const std::filesystem::path& group);

  Isolation(Isolation&&) noexcept;
  Isolation& operator=(Isolation&&) noexcept;
  Isolation(const Isolation&) = delete;
  Isolation& operator=(const Isolation&) = delete;
  /// Leaves the programs where they are. A cut ends when its time is over, whoever died.
  ~Isolation();

  /// Every packet to or from the pod's sockets is dropped from now on, for `at_most` at the longest
  /// (the kernel's CLOCK_MONOTONIC). One store. The programs see lost packets; no call fails for
  /// it (but ENOBUFS of datagram sockets that asked for errors by IP_RECVERR).
  /// Again before join(): the cut is prolonged or shortened to this end.
  void cut(std::chrono::nanoseconds at_most);
  /// Whether packets from others come in during a cut; at first they do not. What goes out is
  /// dropped all the same, acknowledgements included, and so
  /// are SYNs that come in. Holds until it is called again or join(). One
  /// store.
  void hear(bool others);
  /// Whether the cut has held without a gap from the first cut() after join() (or from the one that
  /// find() found standing) until now.
  bool still_cut() const;
  /// Packets flow again. One store.
  void join();

  /// `from`: an address as the pod's programs know it; `to`: the one on the wire. Port 0: every
  /// port of the host that has no entry of its own; protocol 0: any. Replaces all before, by one
  /// store. IPv4-mapped IPv6 addresses are IPv4 ones.
  ///
  /// from -> to: connect(2), bind(2), sendto(2), sendmsg(2), sendmmsg(2), MSG_FASTOPEN, the source
  /// in an IP_PKTINFO message. to -> from: getsockname(2), getpeername(2), what accept(2) and
  /// accept4(2) return, the source that recvfrom(2), recvmsg(2) and recvmmsg(2) return. Not
  /// covered: IPV6_PKTINFO, IP_PKTINFO as received, raw and SCTP sockets, addresses of interfaces.
  ///
  /// An entry of the wildcard with a port holds for loopback too: it is the pod's own.
  /// Where hosts share a `to` (several pods on one node): all pods are given the same entries of
  /// hosts (port 0), that of a host which kept its address as well (from == to), and in each pod
  /// the first entry of that `to`, with a port or without, is one of the pod's own host.
  ///
  /// kDamaged names a wrong entry. kUnsupported: too many; each entry makes two records, four for
  /// any protocol, and 131,072 have room, the old ones counted. On failure the old ones hold.
  Status set_addresses(const image::AddressMap& addresses);
  /// What set_addresses() was given last, also by an agent that died, in its order; then, where
  /// hosts share an address, which of them peers at other ports were found to be.
  Result<image::AddressMap> addresses() const;

 private:
  struct State;
  explicit Isolation(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Whether this kernel takes the programs from this process; the sentence names what is missing:
/// capabilities (kPermission), parts of the kernel (kUnsupported).
Status supported();

}  // namespace fermata::isolation
