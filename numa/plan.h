// What goes where: turns a saved placement into the calls that bring it back, inside the CPUs and
// memories that the new pod may use. Pure functions but for apply_affinity; any thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

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
  std::vector<ThreadAffinity> affinity;
  /// mbind(2) of empty ranges, so that pages land where they were; in the leader of each process.
  std::vector<PlannedCall> before_contents;
  /// Final policies: mbind(2) of ranges in the leader, set_mempolicy(2) in each thread.
  std::vector<PlannedCall> after_contents;
  /// One sentence for everything that was dropped.
  std::vector<std::string> notes;
};

/// CPUs and NUMA nodes the new pod may use (sched_getaffinity, cgroup cpuset); empty: all of the
/// topology.
struct Allowed {
  std::vector<int> cpus;
  std::vector<int> nodes;
};

/// The caller's own limits: sched_getaffinity(0) and Mems_allowed of /proc/self/status.
Result<Allowed> allowed_here();

/// `saved_xml` and `saved` come from an image and are not trusted. Another topology: an empty plan
/// and one note. kDamaged: the XML or a list in the placement cannot be parsed.
Result<Plan> plan_placement(std::string_view saved_xml, const image::Placement& saved,
                            std::string_view current_xml, const Allowed& allowed);

/// sched_setaffinity(2) of the thread with host TID `tid`.
Status apply_affinity(pid_t tid, const std::vector<int>& cpus);

/// "0-3,8" <-> {0,1,2,3,8}. At most 4096 numbers, each below 4096.
std::string format_list(const std::vector<int>& numbers);
Result<std::vector<int>> parse_list(std::string_view text);

}  // namespace fermata::numa
