// What the ways to keep a pod's memory cost while it stands, to choose by: figures of one machine,
// corrected by what the pod's own checkpoints took. A fork is a hundred times cheaper where memory
// is in huge pages, a copy slower where other jobs take the memory's bandwidth. Seconds, bytes.
// One thread at a time.
#pragma once

#include <cstdint>

#include "node-agent/memory_room.h"

namespace fermata::node_agent {

class SnapshotCost {
 public:
  double of_copy(uint64_t bytes) const;
  double of_twins(const MemoryUse& use) const;

  /// What it took. Too little to tell is passed over.
  void copied(uint64_t bytes, double seconds);
  void forked(const MemoryUse& use, double seconds);
  /// To be called once for each checkpoint: a figure gets old. A way that was slow once, beside
  /// something else, is tried again later.
  void age();

 private:
  double copy_factor_ = 1;  ///< what it took, of what the figures say
  double twin_factor_ = 1;
};

}  // namespace fermata::node_agent
