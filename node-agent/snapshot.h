// Keeps the memory of a stopped pod as it is at the cut, so that the pod can run on before its
// image is written: by copy-on-write twins, which cost a fork of each process, or by a copy, which
// is sooner done where there is little, or little that was not copied before, while the pod ran.
// Where memory is short for either, twins are made and what they may take is bounded
// (copy_bound.h); where it is too short for that, the pod stands still while it is written.
// Tracer's thread, but for the sources, which any thread may read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"
#include "node-agent/copy_arena.h"
#include "node-agent/engine/capture.h"
#include "node-agent/memory_room.h"
#include "node-agent/precopy.h"
#include "node-agent/snapshot_cost.h"
#include "node-agent/write_tracking.h"

namespace fermata::node_agent {

/// What is to be kept, and where there is room for it. Bytes.
struct SnapshotNeed {
  MemoryUse use;         ///< of the pod now
  uint64_t changed = 0;  ///< of use.own, what an image would hold; the rest is in its parent
  uint64_t room = 0;     ///< that a copy may take
  /// That the pod may take: as long as it has twins, each page it writes becomes two, and both
  /// count for it.
  uint64_t room_of_pod = 0;
  /// What is left to the pod now, and twins may take if somebody sees to it.
  uint64_t head_room = 0;
  uint64_t reserved = 0;  ///< of head_room, for ourselves
};

/// Threads of a pod that may write at the same time.
unsigned writers_of(const MemoryUse& use);

class Snapshot {
 public:
  enum class Way { kTwin, kCopy, kBounded, kStopped };

  /// Chooses the way for a pod, while it runs, and makes room for it. $FERMATA_SNAPSHOT, by
  /// name_of(), chooses instead, for tests and measurements.
  void prepare(const SnapshotNeed& need);
  /// Before prepare(): at most `rounds` times, while the pod runs, copies what was written since
  /// the last time, as long as that gets less. `changed`: of the pod's own memory, what an image
  /// would hold now. Returns what of that is left to the cut; nullopt: a copy of all has no room,
  /// or is quick anyway, and nothing was done.
  std::optional<uint64_t> copy_ahead(const SnapshotNeed& need, uint64_t changed,
                                     WriteTracking& tracking, const std::filesystem::path& group,
                                     unsigned rounds);
  /// The pod has to stand still until it is written, whatever memory there is.
  void prepare_stopped();

  /// "bounded:SIZE" in $FERMATA_SNAPSHOT: so much, for tests.
  static std::optional<uint64_t> budget();

  /// The memory of the pod, which stands still and was captured. Unless way() is kStopped
  /// afterwards, the pod may be let go and the result read until release().
  Result<std::vector<MemoryRegion>> take(engine::FrozenPod& pod, const image::PodObjects& objects,
                                         const WriteTracking& tracking);

  /// After take() and before anything is read, once: pages of twins that were not looked for while
  /// the pod stood still are added to the result. The pod may run.
  Status find_the_rest(std::vector<MemoryRegion>& memory) {
    return engine::find_in_twins(std::exchange(unfound_, {}), memory);
  }

  /// After take(), once: the twins, with kBounded.
  std::vector<engine::TwinProcess> twin_processes() { return std::exchange(twins_, {}); }

  Way way() const { return way_; }
  /// Whether the pod has twins that way.
  bool by_twins() const { return way_ == Way::kTwin || way_ == Way::kBounded; }
  /// As name_of(), or "precopy": a copy, most of which was made ahead.
  std::string_view name() const;
  /// "twin", "copy", "bounded", "stopped".
  static std::string_view name_of(Way way);

  /// After kBounded: the pod took memory faster than it could be stopped. For some sets it stands
  /// still instead, unless the way is chosen by $FERMATA_SNAPSHOT.
  void was_too_tight() { too_tight_ = kTooTightFor; }

  /// The result of take() is not needed any more.
  void release() {
    arena_.release();
    twins_.clear();
    unfound_.clear();
  }

 private:
  std::vector<MemoryRegion> left_to_copy(const engine::FrozenPod& pod,
                                         const WriteTracking& tracking);
  Result<std::vector<MemoryRegion>> twins(engine::FrozenPod& pod, const image::PodObjects& objects);
  Result<std::vector<MemoryRegion>> copy(const engine::FrozenPod& pod,
                                         const std::vector<MemoryRegion>& rest);

  bool choose(const SnapshotNeed& need);
  bool room_for_twins() const;
  Way without_room() const;
  bool room_for_copy(uint64_t bytes) const { return ahead_.size() + bytes <= need_.room; }
  void reconsider(const std::vector<MemoryRegion>& memory, const image::PodObjects& objects);

  CopyArena arena_;
  Precopy ahead_{arena_};
  Way way_ = Way::kStopped;
  bool forced_ = false;
  SnapshotNeed need_;
  uint64_t warmed_ = 0;
  static constexpr unsigned kTooTightFor = 10;
  unsigned too_tight_ = 0;  ///< so many sets more
  SnapshotCost cost_;
  std::vector<engine::TwinProcess> twins_;
  std::vector<engine::UnfoundPages> unfound_;
};

}  // namespace fermata::node_agent
