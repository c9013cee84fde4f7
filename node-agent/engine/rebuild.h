// Rebuild of a pod from its objects and memory, inside namespaces and a cgroup that the caller
// made. An image is untrusted: validate() has to accept it before anything is made from it.
#pragma once

#include <sys/types.h>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/credentials.h"
#include "common/memory_image.h"
#include "common/status.h"
#include "node-agent/engine/capture.h"
#include "node-agent/engine/inet_address.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// Checks every number, reference and path of an image against the others; kDamaged names the first
/// that is wrong.
Status validate(const image::PodObjects& objects, const std::vector<MemoryRegion>& memory);

/// Compares what the image needs with this machine (CPU features, XSTATE components, vDSO);
/// kUnsupported names what is missing.
Status check_requirements(const image::Requirements& needs);

/// Whether this machine has as many huge pages (MAP_HUGETLB) as the processes reserve or fill;
/// kUnsupported says how many there have to be.
Status check_huge_pages(const image::PodObjects& objects, const std::vector<MemoryRegion>& memory);

/// How sockets that other pods may reach get their addresses. Ports are kept where they are free.
///
/// Isolation: until `exchange` is called the pod's own sockets talk to each other (unread
/// datagrams, connections that wait to be accepted), so it must not be cut off. From then on it may
/// be, and need not: connections with other pods stand in repair mode, silent and without timers,
/// until RebuiltPod::run(). That needs the pod joined, and every other pod built (rebuild() of all
/// has returned). A pod that is still cut off when another one runs costs their connections a
/// retransmission timer (1 s, as nothing is known of the way yet).
struct NetworkRequest {
  /// The address on this node that stands for one of the image's node; the port is not looked at.
  /// Null: the same.
  std::function<Result<InetAddress>(const InetAddress& then)> address_here;
  /// Called once, when every socket of the pod is bound and none is connected to another pod: `own`
  /// are the pod's addresses, then and now. Returns those of all pods of the step. May block. Null:
  /// a pod alone.
  std::function<Result<image::AddressMap>(const image::AddressMap& own)> exchange;
  /// Connections to addresses that are not in that map end with ECONNRESET; otherwise they are
  /// refused.
  bool reset_outside = false;
};

class LazyFill;

struct RebuildRequest {
  const image::PodObjects* objects = nullptr;
  const std::vector<MemoryRegion>* memory = nullptr;
  /// Has what may come later of the memory come while the pod runs; null: all is there before. Not
  /// owned.
  LazyFill* lazy = nullptr;
  /// PID 1 of the new namespaces: a fork of ours that waits in pause(), root, in its cgroup, with
  /// the pod's mounts.
  pid_t init = -1;
  Credentials owner;  ///< what the rebuilt processes become
  /// Our descriptors that replace the job's streams: its three, and then three for each rank that
  /// has its own.
  std::vector<int> stdio;
  NetworkRequest network;
  /// Called for each process when its maps stand and are still empty, and again when they are full:
  /// memory policies. May be null.
  std::function<Status(const FrozenProcess&, Remote&)> before_contents;
  std::function<Status(const FrozenProcess&, Remote&)> after_contents;
  /// Called once for each thread, leaders included, when all of its process stands and it has not
  /// run yet: what only the thread itself can set (set_mempolicy). May be null.
  std::function<Status(const FrozenProcess&, const FrozenThread&, Remote&)> each_thread;
};

/// A pod rebuilt and stopped.
class RebuiltPod {
 public:
  virtual ~RebuiltPod() = default;
  virtual const std::vector<FrozenProcess>& processes() const = 0;
  /// Has the connections with other pods go on (a nudge included) and lets the threads run. Without
  /// it the destructor kills what was built.
  virtual Status run() = 0;
};

/// Rebuilds everything and leaves it stopped. On failure nothing of it is left but the init given,
/// which is killed.
Result<std::unique_ptr<RebuiltPod>> rebuild(const RebuildRequest& request);

}  // namespace fermata::engine
