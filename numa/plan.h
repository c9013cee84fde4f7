// What goes where: turns a saved placement into the calls that bring it back, inside the CPUs and
// memories that the new pod may use. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "numa/affinity.h"
#include "numa/topology.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

/// What a restart does with a saved placement.
enum class Mode {
  kKeep,    ///< the numbers of CPUs and nodes as they were; what does not exist here is dropped
  kReplan,  ///< what was near stays near, in this machine's numbers
  kIgnore,  ///< nothing: the kernel places all
};

/// "keep", "replan", "ignore"; kUsage.
Result<Mode> parse_mode(std::string_view text);

/// A system call to make in a thread of the pod. Where `mask_argument` >= 0, the words of
/// `nodemask` are written to memory of the process first and their address becomes that argument.
struct PlannedCall {
  int vpid = 0;
  int vtid = 0;
  long number = 0;
  std::array<uint64_t, 6> args{};
  int mask_argument = -1;
  std::vector<uint64_t> nodemask;
};

struct ThreadAffinity {
  int vpid = 0;
  int vtid = 0;
  std::vector<int> cpus;  ///< never empty
};

struct Plan {
  /// For apply_affinity() of each thread.
  std::vector<ThreadAffinity> affinity;
  /// mbind(2) of ranges that are still empty, so that pages land where they were; in any thread of
  /// the process. Failures are best ignored: pages then land elsewhere, no more.
  std::vector<PlannedCall> before_contents;
  /// mbind(2): the final policy of each range; in any thread of the process.
  std::vector<PlannedCall> after_contents;
  /// set_mempolicy(2), in the thread vtid itself, before it runs.
  std::vector<PlannedCall> thread_policies;
  /// Where all will be, in the numbers of this machine.
  image::Placement planned;
  /// One sentence for everything that was dropped.
  std::vector<std::string> notes;
};

/// CPUs and NUMA nodes the new pod may use; empty: all.
struct Allowed {
  std::vector<int> cpus;
  std::vector<int> nodes;
};

/// The caller's own limits, which what it forks inherits: its affinity, and Mems_allowed_list of
/// /proc/self/status.
Result<Allowed> allowed_here();

/// `saved` comes from an image and is not trusted. A machine with another signature: an empty plan
/// and one note. kDamaged: a number or list in it makes no sense.
Result<Plan> plan_placement(const image::Placement& saved, const Topology& current,
                            const Allowed& allowed);

}  // namespace fermata::numa
