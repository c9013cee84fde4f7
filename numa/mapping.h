// From the CPUs and nodes of a checkpoint to those of this machine. Pure functions, and
// deterministic: the same input gives the same answer everywhere. Any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "numa/machine.h"

namespace fermata::numa {

/// What the job used of its machine.
struct Usage {
  Numbers cpus;                   ///< that some thread is bound to
  std::map<int, uint64_t> bytes;  ///< in use, by node
};

struct Mapping {
  enum class Kind {
    kIdentity,    ///< all numbers stay
    kIsomorphic,  ///< the same shape under other numbers
    kRegrouped,   ///< another shape: kept together what can be
  };
  Kind kind = Kind::kIdentity;
  /// Of every CPU in use: the one that takes its place. Always an allowed one.
  std::map<int, int> cpu;
  /// Of every node of the old machine that was allowed or used: those that take its place, the one
  /// with most of it first. Never empty where this machine has a node; always allowed ones.
  std::map<int, Numbers> node;
};

/// "the same", "renumbered", "regrouped".
std::string_view kind_name(Mapping::Kind kind);

struct Side {
  Machine machine;
  Allowed allowed;
};

/// Identity where machine and limits allow it; else by shape; else what shared a package, a node,
/// an L3 cache, a core stays together as far as it fits, in this order, and the rest is balanced by
/// CPUs and bytes in use.
Mapping map_machines(const Side& before, const Usage& usage, const Side& now);

// The two steps of map_machines(), apart.
/// nullopt: the shapes differ. Of several ways the one that keeps most numbers, then is changed by
/// swaps of like parts as long as that brings distances between nodes closer to what they were.
bool map_by_shape(const Machine& before, const Machine& now, Mapping& mapping);
void map_by_groups(const Machine& before, const Usage& usage, const Machine& now, Mapping& mapping);

}  // namespace fermata::numa
