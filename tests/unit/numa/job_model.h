// Jobs laid on machines, for tests of the planner: made from a seed.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "numa/group_tree.h"
#include "numa/number_list.h"
#include "numa/topology.h"
#include "proto/placement.pb.h"

namespace fermata::numa::test {

/// How the threads of a job are bound.
enum class Binding { kCpu, kCore, kCache, kNode, kPackage, kNone, kAnything };

inline const std::vector<Binding>& bindings() {
  static const std::vector<Binding> all{Binding::kCpu,     Binding::kCore,    Binding::kCache,
                                        Binding::kNode,    Binding::kPackage, Binding::kNone,
                                        Binding::kAnything};
  return all;
}

/// The sets that threads are bound to, one rank each.
inline std::vector<Numbers> sets_for(const Machine& machine, Binding binding) {
  const Group tree = tree_of(machine);
  const auto cpus_at = [&](Level level) {
    std::vector<Numbers> sets;
    for (const Group* group : groups_at(tree, level)) {
      if (!group->cpus.empty()) sets.push_back(group->cpus);
    }
    return sets;
  };
  switch (binding) {
    case Binding::kCpu:
      return cpus_at(Level::kCpu);
    case Binding::kCore:
      return cpus_at(Level::kCore);
    case Binding::kCache:
      return cpus_at(Level::kCache);
    case Binding::kNode:
      return cpus_at(Level::kNode);
    case Binding::kPackage:
      return cpus_at(Level::kPackage);
    default:
      return {machine.cpus()};
  }
}

/// A job of at most `ranks` processes of three threads (as MPI ranks have), each with 64 MiB on the
/// node where its first CPU is, some on others, some mixed and some shared.
inline image::Placement job_on(const Topology& topology, Binding binding, unsigned seed,
                               size_t ranks = 64) {
  const Machine& machine = topology.machine;
  std::mt19937 random(seed);
  image::Placement job;
  job.set_topology_signature(topology.signature);
  job.set_numa_nodes(topology.numa_nodes);
  *job.mutable_machine() = record_of(machine);
  job.set_allowed_cpus(format_list(machine.cpus()));
  job.set_allowed_nodes(format_list(machine.node_numbers()));
  const Numbers all = machine.cpus();
  const Numbers nodes = machine.node_numbers();
  const std::vector<Numbers> sets = sets_for(machine, binding);
  const size_t count = binding == Binding::kAnything ? 5 : std::min(ranks, sets.size());
  for (size_t rank = 0; rank < count; ++rank) {
    const int vpid = static_cast<int>(rank) + 10;
    Numbers cpus = sets[rank % sets.size()];
    if (binding == Binding::kAnything) {
      cpus.clear();
      for (const int cpu : all) {
        if (random() % 3 == 0) cpus.push_back(cpu);
      }
      if (cpus.empty()) cpus = {all[random() % all.size()]};
    }
    for (int i = 0; i < 3; ++i) {
      image::ThreadPlacement* thread = job.add_threads();
      thread->set_vpid(vpid);
      thread->set_vtid(vpid + 1000 * i);
      thread->set_cpuset(format_list(cpus));
      thread->set_policy_mode(0);
    }
    image::ProcessPlacement* process = job.add_processes();
    process->set_vpid(vpid);
    constexpr uint64_t kSize = uint64_t{64} << 20;
    const int home = machine.home_of(cpus.front());
    const int near = home >= 0 ? home : nodes.front();
    const int far = nodes[random() % nodes.size()];
    for (int i = 0; i < 4; ++i) {
      image::RangePlacement* range = process->add_ranges();
      range->set_start(uint64_t{0x7f0000000000} + static_cast<uint64_t>(i) * kSize);
      range->set_end(range->start() + kSize);
      range->set_policy_mode(-1);
      range->set_shared(i == 3);
      image::PageRun* run = range->add_runs();
      run->set_start(range->start());
      run->set_length(kSize);
      run->set_bytes(kSize);
      run->set_node(i == 1 ? far : near);
      if (i == 2 && nodes.size() > 1) {
        run->set_node(nodes.front());
        run->set_nodes(format_list(nodes));
      }
    }
  }
  return job;
}

/// The same machine under other numbers.
inline Machine renumbered(const Machine& machine, unsigned seed) {
  std::mt19937 random(seed);
  Numbers cpus = machine.cpus();
  std::vector<int> shuffled = cpus;
  std::shuffle(shuffled.begin(), shuffled.end(), random);
  const auto change = [&](const Numbers& set) {
    Numbers other;
    for (const int cpu : set) {
      const auto at = std::lower_bound(cpus.begin(), cpus.end(), cpu) - cpus.begin();
      other.push_back(shuffled[static_cast<size_t>(at)]);
    }
    std::sort(other.begin(), other.end());
    return other;
  };
  Machine result;
  std::vector<size_t> order(machine.nodes.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  for (size_t i = 0; i < order.size(); ++i) {
    const NumaNode& node = machine.nodes[order[i]];
    result.nodes.push_back({machine.nodes[i].number, change(node.cpus), node.bytes});
  }
  const auto change_all = [&](const std::vector<Numbers>& sets) {
    std::vector<Numbers> others;
    for (const Numbers& set : sets) others.push_back(change(set));
    std::sort(others.begin(), others.end());
    return others;
  };
  result.packages = change_all(machine.packages);
  result.l3_caches = change_all(machine.l3_caches);
  result.cores = change_all(machine.cores);
  if (!machine.distances.empty()) {
    for (const size_t row : order) {
      for (const size_t column : order) {
        result.distances.push_back(machine.distances[row * order.size() + column]);
      }
    }
  }
  return result;
}

}  // namespace fermata::numa::test
