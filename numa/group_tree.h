// A machine as a tree: package, NUMA node, L3 cache, core, CPU. Levels that a machine lacks have
// one group each, so that trees of any two machines can be laid side by side. Pure functions; any
// thread.
#pragma once

#include <string>
#include <vector>

#include "numa/machine.h"

namespace fermata::numa {

enum class Level { kMachine, kPackage, kNode, kCache, kCore, kCpu };

struct Group {
  Level level = Level::kMachine;
  int node = -1;  ///< of kNode: its number; -1: CPUs without a node
  Numbers cpus;   ///< home CPUs: those whose first memory this is; a node of memory alone has none
  std::vector<Group> children;
  std::string shape;  ///< equal where all below is alike but for numbers and sizes
};

/// Where nodes are larger than packages (NUMA switched off), the packages of a node are one group.
/// Children are in order of their first CPU, nodes of memory alone last.
Group tree_of(const Machine& machine);

/// Every group of a level, in order.
std::vector<const Group*> groups_at(const Group& tree, Level level);

}  // namespace fermata::numa
