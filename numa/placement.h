// What was where: CPUs of threads, memory policies, nodes of pages. Reads other processes from
// outside (root); any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "numa/survey.h"
#include "numa/topology.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

struct ThreadToPlace {
  int vtid = 0;   ///< TID in the pod
  pid_t tid = 0;  ///< TID here
  /// What get_mempolicy(2) gave in the thread, flags included; -1: not known (then nothing is
  /// applied at a restart).
  int policy_mode = -1;
  Numbers policy_nodes;
};

struct RangeToPlace {
  uint64_t start = 0;
  uint64_t end = 0;
  bool shared = false;
  /// Its own, as mbind(2) sets it and get_mempolicy(MPOL_F_ADDR) tells; -1: none.
  int policy_mode = -1;
  Numbers policy_nodes;
};

struct ProcessToPlace {
  int vpid = 0;
  pid_t pid = 0;
  std::vector<ThreadToPlace> threads;
  std::vector<RangeToPlace> ranges;  ///< its memory maps, ascending
};

/// Records the placement of stopped processes: affinity of each thread, what is given of policies,
/// and the pages that `survey` found in the ranges; processes that it lacks are asked now.
Result<image::Placement> capture_placement(const Topology& topology, const Allowed& allowed,
                                           const std::vector<ProcessToPlace>& processes,
                                           const PageSurvey& survey);

}  // namespace fermata::numa
