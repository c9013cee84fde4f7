// How near the memory of processes is to their threads. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "numa/machine.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

struct ProcessLocality {
  int vpid = 0;
  uint64_t bytes = 0;
  uint64_t local = 0;  ///< on a node that is local to a CPU where a thread of the process may run
};

struct Locality {
  std::vector<ProcessLocality> processes;
  uint64_t bytes = 0;
  uint64_t local = 0;

  /// In percent; 100 where there is no memory.
  double percent() const;
};

/// Of a placement in the numbers of `machine`. Mixed runs count on each of their nodes alike.
/// kDamaged: a list in it is none.
Result<Locality> locality_of(const image::Placement& placement, const Machine& machine);

/// Bytes present in a run: as counted, else its length.
uint64_t bytes_of(const image::PageRun& run);
/// Nodes of a run: one, or those it is spread over. kDamaged.
Result<Numbers> nodes_of(const image::PageRun& run);

}  // namespace fermata::numa
