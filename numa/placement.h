// What was where: CPUs of threads, memory policies, nodes of pages. Reads other processes from
// outside (root); any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "numa/topology.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

struct ThreadToPlace {
  int vtid = 0;   ///< TID in the pod
  pid_t tid = 0;  ///< TID here
  /// What get_mempolicy(2) gave in the thread, flags included; -1: not known (then nothing is
  /// applied at a restart).
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

/// Records the placement of stopped processes: affinity of each thread, policy of each range
/// (/proc/PID/numa_maps), nodes of its pages. Where one node holds all pages of a range that is
/// known from numa_maps; else each page is asked for by move_pages(2) without targets. At most 4096
/// runs a range: beyond, each run is the node that holds most of its pages.
Result<image::Placement> capture_placement(const Topology& topology,
                                           const std::vector<ProcessToPlace>& processes);

}  // namespace fermata::numa
