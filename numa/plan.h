// What goes where: turns a saved placement into the calls that bring it back, inside the CPUs and
// memories that the new pod may use. Any thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "numa/affinity.h"
#include "numa/locality.h"
#include "numa/mapping.h"
#include "numa/policy_calls.h"
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

struct ThreadAffinity {
  int vpid = 0;
  int vtid = 0;
  Numbers cpus;  ///< never empty
};

struct Plan {
  /// How the two machines compare: "the same", "renumbered", "regrouped"; empty: nothing is
  /// applied.
  std::string how;
  /// For apply_affinity() of each thread.
  std::vector<ThreadAffinity> affinity;
  /// mbind(2) of ranges that are still empty, so that pages land where they belong. Failures are
  /// best ignored: pages then land elsewhere, no more.
  std::vector<PlannedCall> before_contents;
  /// mbind(2): the final policy of each range.
  std::vector<PlannedCall> after_contents;
  /// set_mempolicy(2), in the thread itself, before it runs.
  std::vector<PlannedCall> thread_policies;
  /// Where all will be, in the numbers of this machine.
  image::Placement planned;
  Locality before;  ///< as it was, on the machine that it was on
  Locality after;   ///< as planned here
  /// Of pages whose node may not be used here and that have no other (Mode::kKeep).
  uint64_t bytes_not_allowed = 0;
  /// One sentence for everything that was dropped.
  std::vector<std::string> notes;
};

/// The limits of a process, which what it forks inherits: its affinity, and Mems_allowed_list of
/// /proc/PID/status.
Result<Allowed> allowed_of(pid_t pid);
/// The caller's own.
Result<Allowed> allowed_here();

/// `saved` comes from an image and is not trusted. kDamaged: a number or list in it makes no sense.
/// A placement that does not tell its machine (of an older Fermata), on a machine with another
/// signature: an empty plan and one note.
Result<Plan> plan_placement(const image::Placement& saved, const Topology& current,
                            const Allowed& allowed, Mode mode = Mode::kReplan);

}  // namespace fermata::numa
