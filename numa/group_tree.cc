#include "numa/group_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace fermata::numa {
namespace {

void seal(Group& group) {
  std::stable_sort(group.children.begin(), group.children.end(),
                   [](const Group& left, const Group& right) {
                     if (left.cpus.empty() != right.cpus.empty()) return right.cpus.empty();
                     if (left.cpus != right.cpus) return left.cpus < right.cpus;
                     return left.node < right.node;
                   });
  std::vector<std::string> shapes;
  for (const Group& child : group.children) shapes.push_back(child.shape);
  std::sort(shapes.begin(), shapes.end());
  group.shape = fmt::format("{}(", static_cast<int>(group.level));
  for (const std::string& shape : shapes) group.shape += shape;
  group.shape += ')';
}

/// The parts of `cpus` that lie in each of the sets; what lies in none is a part of its own.
std::vector<Numbers> split(const Numbers& cpus, const std::vector<Numbers>& sets) {
  std::vector<Numbers> parts;
  Numbers taken;
  for (const Numbers& set : sets) {
    Numbers part = intersection(cpus, set);
    if (part.empty() || !intersection(part, taken).empty()) continue;
    unite(taken, part);
    parts.push_back(std::move(part));
  }
  Numbers rest;
  std::set_difference(cpus.begin(), cpus.end(), taken.begin(), taken.end(),
                      std::back_inserter(rest));
  if (!rest.empty()) parts.push_back(std::move(rest));
  return parts;
}

Group core_of(const Numbers& cpus) {
  Group core{Level::kCore, -1, cpus, {}, {}};
  for (const int cpu : cpus) {
    Group leaf{Level::kCpu, -1, {cpu}, {}, {}};
    seal(leaf);
    core.children.push_back(std::move(leaf));
  }
  seal(core);
  return core;
}

Group node_of(const Machine& machine, int number, const Numbers& cpus) {
  Group node{Level::kNode, number, cpus, {}, {}};
  for (const Numbers& under_cache : split(cpus, machine.l3_caches)) {
    Group cache{Level::kCache, -1, under_cache, {}, {}};
    for (const Numbers& core : split(under_cache, machine.cores)) {
      // Of CPUs in no core each is one.
      const bool known = std::any_of(machine.cores.begin(), machine.cores.end(),
                                     [&](const Numbers& set) { return includes(set, core); });
      if (known) {
        cache.children.push_back(core_of(core));
      } else {
        for (const int cpu : core) cache.children.push_back(core_of({cpu}));
      }
    }
    seal(cache);
    node.children.push_back(std::move(cache));
  }
  seal(node);
  return node;
}

/// Packages, those that share a node taken together; CPUs of no package are one.
std::vector<Numbers> package_sets(const Machine& machine, const std::map<int, Numbers>& homes) {
  std::vector<Numbers> sets = split(machine.cpus(), machine.packages);
  for (const auto& [number, cpus] : homes) {
    Numbers together;
    std::vector<Numbers> others;
    for (Numbers& set : sets) {
      if (intersection(set, cpus).empty()) {
        others.push_back(std::move(set));
      } else {
        unite(together, set);
      }
    }
    if (!together.empty()) others.push_back(std::move(together));
    sets = std::move(others);
  }
  std::sort(sets.begin(), sets.end());
  return sets;
}

}  // namespace

Group tree_of(const Machine& machine) {
  std::map<int, Numbers> homes;  // by node; -1: CPUs without one
  for (const int cpu : machine.cpus()) homes[machine.home_of(cpu)].push_back(cpu);
  std::vector<const NumaNode*> memory_alone;
  for (const NumaNode& node : machine.nodes) {
    if (!homes.contains(node.number)) memory_alone.push_back(&node);
  }

  Group tree{Level::kMachine, -1, machine.cpus(), {}, {}};
  for (const Numbers& cpus : package_sets(machine, homes)) {
    Group package{Level::kPackage, -1, cpus, {}, {}};
    for (const auto& [number, home] : homes) {
      if (includes(cpus, home)) package.children.push_back(node_of(machine, number, home));
    }
    std::erase_if(memory_alone, [&](const NumaNode* node) {
      if (node->cpus.empty() || !includes(cpus, node->cpus)) return false;
      package.children.push_back(node_of(machine, node->number, {}));
      return true;
    });
    seal(package);
    tree.children.push_back(std::move(package));
  }
  if (!memory_alone.empty()) {
    Group apart{Level::kPackage, -1, {}, {}, {}};
    for (const NumaNode* node : memory_alone) {
      apart.children.push_back(node_of(machine, node->number, {}));
    }
    seal(apart);
    tree.children.push_back(std::move(apart));
  }
  seal(tree);
  return tree;
}

std::vector<const Group*> groups_at(const Group& tree, Level level) {
  std::vector<const Group*> found;
  std::vector<const Group*> open{&tree};
  while (!open.empty()) {
    std::vector<const Group*> below;
    for (const Group* group : open) {
      if (group->level == level) {
        found.push_back(group);
        continue;
      }
      for (const Group& child : group->children) below.push_back(&child);
    }
    open = std::move(below);
  }
  return found;
}

}  // namespace fermata::numa
