#include "numa/mapping.h"

#include <algorithm>

namespace fermata::numa {
namespace {

/// Memory may be taken from other nodes than those of the CPUs: then the nearest.
int nearest(const Machine& machine, int node, const Numbers& candidates) {
  return *std::min_element(candidates.begin(), candidates.end(), [&](int left, int right) {
    const auto key = [&](int to) { return std::pair(machine.distance(node, to), to); };
    return key(left) < key(right);
  });
}

/// Nodes that nothing is known of - unused ones - are shared out in order.
void complete(const Machine& before, const Side& now, Mapping& mapping) {
  Numbers usable;
  for (const int node : now.machine.node_numbers()) {
    if (now.allowed.nodes.empty() || contains(now.allowed.nodes, node)) usable.push_back(node);
  }
  if (usable.empty()) {  // limits name nodes that the machine does not show: the kernel decides
    mapping.node.clear();
    return;
  }
  for (auto& [from, to] : mapping.node) {
    Numbers allowed;
    for (const int node : to) {
      const int place = contains(usable, node) ? node : nearest(now.machine, node, usable);
      if (std::find(allowed.begin(), allowed.end(), place) == allowed.end())
        allowed.push_back(place);
    }
    to = std::move(allowed);
  }
  const Numbers all = before.node_numbers();
  for (size_t i = 0; i < all.size(); ++i) {
    Numbers& to = mapping.node[all[i]];
    if (to.empty()) to = {usable[i * usable.size() / all.size()]};
  }
}

bool stays(const Mapping& mapping) {
  return std::all_of(mapping.cpu.begin(), mapping.cpu.end(),
                     [](const auto& pair) { return pair.first == pair.second; }) &&
         std::all_of(mapping.node.begin(), mapping.node.end(),
                     [](const auto& pair) { return pair.second == Numbers{pair.first}; });
}

}  // namespace

std::string_view kind_name(Mapping::Kind kind) {
  switch (kind) {
    case Mapping::Kind::kIdentity:
      return "the same";
    case Mapping::Kind::kIsomorphic:
      return "renumbered";
    case Mapping::Kind::kRegrouped:
      return "regrouped";
  }
  return "unknown";
}

Mapping map_machines(const Side& before, const Usage& usage, const Side& now) {
  const auto within = [](const Numbers& part, const Numbers& limit) {
    return limit.empty() || includes(limit, part);
  };
  Numbers used_nodes;
  for (const auto& [node, bytes] : usage.bytes) {
    if (bytes > 0) used_nodes.push_back(node);
  }
  Mapping mapping;
  const bool same = before.machine.same_shape_and_numbers(now.machine);
  if (same && within(usage.cpus, now.allowed.cpus) && within(used_nodes, now.allowed.nodes)) {
    for (const int cpu : usage.cpus) mapping.cpu[cpu] = cpu;
    for (const int node : before.machine.node_numbers()) mapping.node[node] = {node};
    complete(before.machine, now, mapping);
    return mapping;
  }
  // A thread may be bound to CPUs that its limits were taken from meanwhile.
  Allowed had_allowed = before.allowed;
  if (!had_allowed.cpus.empty()) unite(had_allowed.cpus, usage.cpus);
  const Machine had = restricted(before.machine, had_allowed);
  const Machine has = restricted(now.machine, now.allowed);
  if (!map_by_shape(had, has, mapping)) map_by_groups(had, usage, has, mapping);
  complete(before.machine, now, mapping);
  if (stays(mapping) && mapping.kind == Mapping::Kind::kIsomorphic) {
    mapping.kind = Mapping::Kind::kIdentity;
  }
  return mapping;
}

}  // namespace fermata::numa
