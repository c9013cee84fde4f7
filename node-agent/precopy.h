// Copies of a pod's memory that are made ahead of a cut, in rounds, while the pod runs: the cut
// then copies only what was written since. They stand in a CopyArena, from its beginning on. One
// thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <vector>

#include "common/extents.h"
#include "common/memory_image.h"
#include "common/status.h"
#include "node-agent/copy_arena.h"
#include "node-agent/write_tracking.h"

namespace fermata::node_agent {

class Precopy {
 public:
  explicit Precopy(CopyArena& arena) : arena_(arena) {}

  /// Nothing is copied.
  void begin();
  bool begun() const { return size_ > 0; }
  /// Bytes of the arena that are taken.
  uint64_t size() const { return size_; }

  /// Copies the pages of `regions`, whose processes run (WriteTracking::take()), in the place of
  /// what was copied of them before. What cannot be read any more is not had, nor what there is no
  /// time for.
  Status add(const std::vector<MemoryRegion>& regions, std::chrono::steady_clock::time_point until);

  /// Of the memory of the pod, which stands still: what was not copied ahead, or was written since.
  std::vector<MemoryRegion> rest(const std::vector<MemoryRegion>& memory,
                                 const WriteTracking& tracking);
  /// `memory`, read from here and from `rest`: the last rest(), with sources that need not be those
  /// it had then. Until the arena is used for something else.
  std::vector<MemoryRegion> joined(const std::vector<MemoryRegion>& memory,
                                   const std::vector<MemoryRegion>& rest) const;

 private:
  struct Place {
    uint64_t address = 0;
    uint64_t length = 0;
    uint64_t offset = 0;  ///< in the arena
  };
  struct Copied {
    std::vector<Place> places;  ///< ascending
    Extents had;                ///< what of them was read
  };
  class Source;

  std::vector<Place> places_for(std::vector<Place>& places, const Extents& pages);

  CopyArena& arena_;
  std::map<MemoryId, Copied> copied_;
  uint64_t size_ = 0;
};

}  // namespace fermata::node_agent
