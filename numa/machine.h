// What of a machine matters for placement: NUMA nodes, packages, L3 caches, cores, distances. Plain
// values without hwloc, so that a machine can come from an image, too. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

/// CPU or node numbers, ascending, each once.
using Numbers = std::vector<int>;

struct NumaNode {
  int number = 0;
  Numbers cpus;        ///< those the node is local to; several nodes may have the same ones
  uint64_t bytes = 0;  ///< 0: not known

  bool operator==(const NumaNode&) const = default;
};

struct Machine {
  std::vector<NumaNode> nodes;                      ///< ascending by number
  std::vector<Numbers> packages, l3_caches, cores;  ///< ascending by first CPU
  /// nodes x nodes, row by row; empty: not known.
  std::vector<uint32_t> distances;

  Numbers cpus() const;
  Numbers node_numbers() const;
  /// The node whose memory a thread on this CPU gets first: of those local to it the one with
  /// fewest CPUs, then the lowest. -1: none.
  int home_of(int cpu) const;
  /// Between two nodes by number; 10 for one and the same, 20 where it is not known.
  uint32_t distance(int from, int to) const;
  /// Numbers of CPUs, nodes, packages, caches and cores are the same, and so are distances. Sizes
  /// of nodes may differ: firmware takes more or less of them at each boot.
  bool same_shape_and_numbers(const Machine& other) const;
};

/// CPUs and NUMA nodes that a pod may use; empty: all.
struct Allowed {
  Numbers cpus;
  Numbers nodes;
};

/// "nodes 0:0-3 1:4-7; packages 0-3 4-7; L3 0-3 4-7; cores 0 1 ...": for people, and to compare.
std::string signature_of(const Machine& machine);

/// What is left of a machine: CPUs that are not allowed are taken out of everything, and what then
/// has no CPU is dropped; of nodes those stay that are allowed, or have a CPU left.
Machine restricted(const Machine& machine, const Allowed& allowed);

image::Machine record_of(const Machine& machine);
/// kDamaged: numbers that no machine has.
Result<Machine> machine_of(const image::Machine& record);

bool contains(const Numbers& numbers, int number);
/// Whether all of `part` are among `whole`.
bool includes(const Numbers& whole, const Numbers& part);
Numbers intersection(const Numbers& left, const Numbers& right);
/// Adds `more` to `numbers`.
void unite(Numbers& numbers, const Numbers& more);

}  // namespace fermata::numa
