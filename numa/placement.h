// What was where: topology of the machine, CPUs of threads, memory policies, nodes of pages. Reads
// other processes from outside (root); any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

/// The machine's topology as hwloc XML (of the whole machine, not only of what this process may
/// use).
Result<std::string> topology_xml();

struct ThreadToPlace {
  int vtid = 0;   ///< TID in the pod
  pid_t tid = 0;  ///< TID here
  /// What get_mempolicy(2) gave in the thread; -1: not known (then nothing is applied at a
  /// restart).
  int policy_mode = -1;
  std::vector<int> policy_nodes;
};

struct RangeToPlace {
  uint64_t start = 0;
  uint64_t end = 0;
};

struct ProcessToPlace {
  int vpid = 0;
  pid_t pid = 0;
  std::vector<ThreadToPlace> threads;
  std::vector<RangeToPlace> ranges;  ///< its memory maps, ascending
};

/// Records the placement of stopped processes: affinity of each thread, policy of each range (from
/// /proc/PID/numa_maps), node of each present page (move_pages(2) without targets). On a machine
/// with one NUMA node no page is asked for: the answer is known.
Result<image::Placement> capture_placement(const std::vector<ProcessToPlace>& processes);

}  // namespace fermata::numa
