// Keeps the memory of a stopped pod as it is at the cut, so that the pod can run on before its
// image is written: by copy-on-write twins, which cost a fork of each process, or by a copy, which
// is sooner done where there is little. Where memory is short for either, the pod stands still
// while it is written. Tracer's thread, but for the sources, which any thread may read.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"
#include "node-agent/copy_arena.h"
#include "node-agent/engine/capture.h"
#include "node-agent/memory_room.h"

namespace fermata::node_agent {

class Snapshot {
 public:
  enum class Way { kTwin, kCopy, kStopped };

  /// Chooses the way for a pod that has `use` now, while it runs, and makes room for it. `room`:
  /// bytes that may be taken.
  void prepare(const MemoryUse& use, uint64_t room);
  /// The pod has to stand still until it is written, whatever memory there is.
  void prepare_stopped() { way_ = Way::kStopped; }

  /// The memory of the pod, which stands still and was captured. Unless way() is kStopped
  /// afterwards, the pod may be let go and the result read until release().
  Result<std::vector<MemoryRegion>> take(engine::FrozenPod& pod, const image::PodObjects& objects);

  Way way() const { return way_; }
  /// "twin", "copy", "stopped".
  static std::string_view name_of(Way way);

  /// The result of take() is not needed any more.
  void release() { arena_.release(); }

 private:
  Result<std::vector<MemoryRegion>> twins(engine::FrozenPod& pod, const image::PodObjects& objects);
  Result<std::vector<MemoryRegion>> copy(const engine::FrozenPod& pod);

  CopyArena arena_;
  Way way_ = Way::kStopped;
  uint64_t room_ = 0;
};

}  // namespace fermata::node_agent
