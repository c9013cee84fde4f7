// Which pod goes to which node, and which rank to which pod. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"

namespace fermata::coord {

/// Of one job; also of one that an image of somebody's tells of.
inline constexpr uint32_t kMostRanks = 1'000'000;

/// A node as placement sees it.
struct NodeRoom {
  std::string name;
  uint32_t slots = 0;  ///< ranks it takes
  uint32_t used = 0;
  bool up = false;
  bool drained = false;  ///< takes nothing new

  uint32_t free() const { return slots > used && !drained ? slots - used : 0; }
};

struct Placement {
  std::vector<std::string> nodes;     ///< by pod
  std::vector<uint32_t> pod_of_rank;  ///< by rank
};

/// Where a new step goes: on the nodes `names`, one pod each, or on `count` of those with most free
/// slots (0: as few as hold it). Ranks are dealt in blocks as even as slots allow.
/// kNotFound: no such node; kGone: it is not up; kBusy: too few slots; kUsage.
Result<Placement> place_run(std::span<const NodeRoom> nodes, uint32_t ranks,
                            const std::vector<std::string>& names, uint32_t count);

/// Where the pods of a step go when it restarts; `ranks` by pod. With `names`: pods are dealt out
/// to them in order, several on one where there are fewer names than pods; as many names as pods
/// are taken one by one. Without: each pod where it was (`before`), if there is room, else where
/// most is free.
Result<std::vector<std::string>> place_restart(std::span<const NodeRoom> nodes,
                                               std::span<const uint32_t> ranks,
                                               const std::vector<std::string>& names,
                                               std::span<const std::string> before);

}  // namespace fermata::coord
