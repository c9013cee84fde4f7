// What holds of every plan, tried on hundreds of machines: synthetic ones, and real ones of hwloc's
// collection (machines/).
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "numa/plan.h"
#include "tests/unit/numa/job_model.h"

namespace fermata::numa {
namespace {

using test::Binding;
using test::bindings;
using test::job_on;
using test::renumbered;

struct Named {
  std::string name;
  Topology topology;
};

Topology described(const std::string& text) {
  auto topology = described_topology(text);
  EXPECT_TRUE(topology) << text;
  return topology ? *topology : Topology{};
}

std::vector<Named> synthetic_machines() {
  std::vector<std::string> texts;
  for (const int packages : {1, 2, 4}) {
    for (const int nodes : {1, 2, 4}) {
      for (const int caches : {0, 1, 2}) {
        for (const int cores : {1, 2, 3, 8}) {
          for (const int threads : {1, 2}) {
            texts.push_back("package:" + std::to_string(packages) +
                            " numa:" + std::to_string(nodes) +
                            (caches > 0 ? " l3:" + std::to_string(caches) : std::string()) +
                            " core:" + std::to_string(cores) + " pu:" + std::to_string(threads));
          }
        }
      }
    }
  }
  for (const char* odd : {
           "numa:1 package:2 core:2 pu:1",
           "[numa] package:2 [numa] core:2 pu:1",
           "package:2 [numa(memory=16GB)] [numa(memory=4GB)] core:4 pu:1",
           "package:1 [numa] l3:4 core:4 pu:2",
           "core:1 pu:1",
           "package:1 core:6 pu:1",
           "package:2 numa:4 l3:2 core:8 pu:2(indexes=core:pu)",
           "package:2 [numa] core:4 pu:2(indexes=0,8,1,9,2,10,3,11,4,12,5,13,6,14,7,15)",
       }) {
    texts.emplace_back(odd);
  }
  std::vector<Named> machines;
  for (const std::string& text : texts) machines.push_back({text, described(text)});
  return machines;
}

std::vector<Named> real_machines() {
  std::vector<Named> machines;
  std::set<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(FERMATA_MACHINES)) {
    if (entry.path().extension() == ".xml") files.insert(entry.path());
  }
  for (const auto& file : files) {
    machines.push_back({file.filename().string(), described(file.string())});
  }
  return machines;
}

const std::vector<Named>& machines() {
  static const std::vector<Named> all = [] {
    std::vector<Named> found = synthetic_machines();
    for (Named& real : real_machines()) found.push_back(std::move(real));
    return found;
  }();
  return all;
}

Numbers list(const std::string& text) {
  auto numbers = parse_list(text);
  return numbers ? *numbers : Numbers{-1};
}

uint64_t bytes_in(const image::Placement& placement) {
  uint64_t sum = 0;
  for (const auto& process : placement.processes()) {
    for (const auto& range : process.ranges()) {
      for (const auto& run : range.runs()) sum += run.bytes();
    }
  }
  return sum;
}

/// Every thread has CPUs, all of them allowed; every page a node that is.
void expect_inside(const Plan& plan, const image::Placement& job, const Numbers& cpus,
                   const Numbers& nodes) {
  ASSERT_EQ(plan.affinity.size(), static_cast<size_t>(job.threads_size()));
  for (const ThreadAffinity& thread : plan.affinity) {
    EXPECT_FALSE(thread.cpus.empty());
    EXPECT_TRUE(includes(cpus, thread.cpus)) << format_list(thread.cpus);
  }
  ASSERT_EQ(plan.planned.processes_size(), job.processes_size());
  for (const auto& process : plan.planned.processes()) {
    for (const auto& range : process.ranges()) {
      uint64_t at = range.start();
      for (const auto& run : range.runs()) {
        EXPECT_EQ(run.start(), at);
        at += run.length();
        EXPECT_TRUE(includes(nodes, *nodes_of(run))) << run.node() << " " << run.nodes();
      }
      EXPECT_EQ(at, range.end());
    }
  }
  const auto had = static_cast<double>(bytes_in(job));
  EXPECT_NEAR(static_cast<double>(bytes_in(plan.planned)), had, had / 1000 + 1);
}

/// The machine that comes after each in the list at several strides: pairs of every kind.
template <typename Body>
void for_pairs(const Body& body) {
  const size_t count = machines().size();
  unsigned seed = 0;
  for (size_t i = 0; i < count; ++i) {
    for (const size_t stride : {1U, 7U, 29U, 83U, 101U}) {
      ++seed;
      const Binding binding = bindings()[seed % bindings().size()];
      const Named& from = machines()[i];
      const Named& to = machines()[(i + stride) % count];
      SCOPED_TRACE("from " + from.name + " to " + to.name + ", binding " +
                   std::to_string(static_cast<int>(binding)) + ", seed " + std::to_string(seed));
      body(from.topology, to.topology, binding, seed);
    }
  }
}

TEST(PlannerProperties, HaveHundredsOfMachines) {
  EXPECT_GE(machines().size(), 220U);
  EXPECT_GE(real_machines().size(), 8U);
}

TEST(PlannerProperties, NothingChanges_OnTheSameMachine) {
  for (const Named& machine : machines()) {
    SCOPED_TRACE(machine.name);
    for (const Binding binding : bindings()) {
      const image::Placement job = job_on(machine.topology, binding, 1);
      const auto plan = plan_placement(job, machine.topology, {});
      ASSERT_TRUE(plan) << plan.error().message();
      EXPECT_EQ(plan->how, "the same");
      EXPECT_TRUE(plan->notes.empty());
      ASSERT_EQ(plan->planned.threads_size(), job.threads_size());
      for (int i = 0; i < job.threads_size(); ++i) {
        EXPECT_EQ(plan->planned.threads(i).cpuset(), job.threads(i).cpuset());
      }
      for (int i = 0; i < job.processes_size(); ++i) {
        EXPECT_EQ(plan->planned.processes(i).SerializeAsString(),
                  job.processes(i).SerializeAsString());
      }
    }
  }
}

TEST(PlannerProperties, StayInsideTheMachine_AndLoseNothing) {
  for_pairs([](const Topology& from, const Topology& to, Binding binding, unsigned seed) {
    const image::Placement job = job_on(from, binding, seed);
    const auto plan = plan_placement(job, to, {});
    ASSERT_TRUE(plan) << plan.error().message();
    expect_inside(*plan, job, to.machine.cpus(), to.machine.node_numbers());
    EXPECT_EQ(plan->bytes_not_allowed, 0U);
  });
}

TEST(PlannerProperties, StayInsideTheLimits) {
  for_pairs([](const Topology& from, const Topology& to, Binding binding, unsigned seed) {
    std::mt19937 random(seed);
    Allowed allowed;
    for (const int cpu : to.machine.cpus()) {
      if (random() % 2 == 0) allowed.cpus.push_back(cpu);
    }
    for (const int node : to.machine.node_numbers()) {
      if (random() % 2 == 0) allowed.nodes.push_back(node);
    }
    if (allowed.cpus.empty()) allowed.cpus = {to.machine.cpus().front()};
    if (allowed.nodes.empty()) allowed.nodes = {to.machine.node_numbers().back()};
    const image::Placement job = job_on(from, binding, seed);
    for (const Mode mode : {Mode::kReplan, Mode::kKeep}) {
      const auto plan = plan_placement(job, to, allowed, mode);
      ASSERT_TRUE(plan) << plan.error().message();
      if (mode == Mode::kReplan) {
        expect_inside(*plan, job, allowed.cpus, allowed.nodes);
        continue;
      }
      for (const ThreadAffinity& thread : plan->affinity) {
        EXPECT_FALSE(thread.cpus.empty());
        EXPECT_TRUE(includes(allowed.cpus, thread.cpus));
      }
      for (const auto& process : plan->planned.processes()) {
        for (const auto& range : process.ranges()) {
          for (const auto& run : range.runs()) {
            EXPECT_TRUE(includes(allowed.nodes, *nodes_of(run)));
          }
        }
      }
    }
  });
}

TEST(PlannerProperties, AreDeterministic) {
  for_pairs([](const Topology& from, const Topology& to, Binding binding, unsigned seed) {
    const image::Placement job = job_on(from, binding, seed);
    const auto first = plan_placement(job, to, {});
    const auto second = plan_placement(job, to, {});
    ASSERT_TRUE(first && second);
    EXPECT_EQ(first->planned.SerializeAsString(), second->planned.SerializeAsString());
    EXPECT_EQ(first->how, second->how);
  });
}

bool has_twin_nodes(const Machine& machine) {
  std::set<Numbers> seen;
  return std::any_of(machine.nodes.begin(), machine.nodes.end(),
                     [&](const NumaNode& node) { return !seen.insert(node.cpus).second; });
}

TEST(PlannerProperties, FollowNewNumbers) {
  unsigned seed = 0;
  for (const Named& machine : machines()) {
    SCOPED_TRACE(machine.name);
    Topology other = machine.topology;
    other.machine = renumbered(machine.topology.machine, ++seed);
    other.signature = signature_of(other.machine);
    const image::Placement job =
        job_on(machine.topology, bindings()[seed % bindings().size()], seed);
    const auto plan = plan_placement(job, other, {});
    ASSERT_TRUE(plan) << plan.error().message();
    EXPECT_NE(plan->how, "regrouped");
    expect_inside(*plan, job, other.machine.cpus(), other.machine.node_numbers());
    // Of several nodes with the same CPUs the first is taken for their home, and numbers change.
    if (!has_twin_nodes(machine.topology.machine)) {
      EXPECT_NEAR(plan->before.percent(), plan->after.percent(), 0.01);
    }
    for (int i = 0; i < job.threads_size(); ++i) {
      EXPECT_EQ(list(plan->planned.threads(i).cpuset()).size(),
                list(job.threads(i).cpuset()).size());
    }
  }
}

TEST(PlannerProperties, KeepMemoryNear_WhereNothingIsForbidden) {
  for_pairs([](const Topology& from, const Topology& to, Binding binding, unsigned seed) {
    // Memory that was local to its process, of threads bound to places: it follows them.
    image::Placement job = job_on(from, binding, seed);
    for (image::ProcessPlacement& process : *job.mutable_processes()) {
      process.mutable_ranges()->DeleteSubrange(1, 3);
    }
    const auto plan = plan_placement(job, to, {});
    ASSERT_TRUE(plan) << plan.error().message();
    const auto has_node = [&](int cpu) { return to.machine.home_of(cpu) >= 0; };
    const Numbers cpus = to.machine.cpus();
    if (plan->before.percent() < 99.99 || !std::all_of(cpus.begin(), cpus.end(), has_node)) return;
    EXPECT_GE(plan->after.percent(), 99.9);
  });
}

/// Groups of CPUs of one level here, by CPU.
std::map<int, size_t> groups_by_cpu(const Machine& machine, Level level) {
  std::map<int, size_t> groups;
  const Group tree = tree_of(machine);
  const auto found = groups_at(tree, level);
  for (size_t i = 0; i < found.size(); ++i) {
    for (const int cpu : found[i]->cpus) groups[cpu] = i;
  }
  return groups;
}

/// What shared a group before shares one here, wherever each group fits into one here.
void expect_together(const Topology& from, const Topology& to, Level level) {
  const Group tree_from = tree_of(from.machine);
  const Group tree_to = tree_of(to.machine);
  const auto before = groups_at(tree_from, level);
  size_t largest = 0;
  size_t smallest = ~size_t{0};
  size_t with_cpus = 0;
  for (const Group* group : before)
    largest = std::max(largest, groups_at(*group, Level::kCore).size());
  for (const Group* group : groups_at(tree_to, level)) {
    if (group->cpus.empty()) continue;
    ++with_cpus;
    smallest = std::min(smallest, groups_at(*group, Level::kCore).size());
  }
  size_t siblings_before = 0;
  size_t siblings_here = ~size_t{0};
  for (const Group* core : groups_at(tree_from, Level::kCore))
    siblings_before = std::max(siblings_before, core->cpus.size());
  for (const Group* core : groups_at(tree_to, Level::kCore))
    siblings_here = std::min(siblings_here, core->cpus.size());
  if (largest > smallest || before.size() > with_cpus || siblings_before > siblings_here) return;
  // From the machine down, each level has to have room for the groups of the one above it.
  for (const Level above : {Level::kPackage, Level::kNode}) {
    if (above >= level) continue;
    if (groups_at(tree_from, above).size() != groups_at(tree_to, above).size()) return;
  }

  Usage usage;
  usage.cpus = from.machine.cpus();
  const Mapping mapping = map_machines({from.machine, {}}, usage, {to.machine, {}});
  const std::map<int, size_t> group_before = groups_by_cpu(from.machine, level);
  const std::map<int, size_t> group_here = groups_by_cpu(to.machine, level);
  std::map<size_t, std::set<size_t>> places;
  for (const auto& [cpu, here] : mapping.cpu) {
    places[group_before.at(cpu)].insert(group_here.at(here));
  }
  std::set<size_t> taken;
  for (const auto& [group, here] : places) {
    EXPECT_EQ(here.size(), 1U) << "group " << group << " was taken apart";
    taken.insert(*here.begin());
  }
  EXPECT_EQ(taken.size(), places.size())
      << "groups were put together though there is room for each";
}

TEST(PlannerProperties, KeepTogetherWhatSharedANode) {
  for_pairs([](const Topology& from, const Topology& to, Binding, unsigned) {
    expect_together(from, to, Level::kNode);
  });
}

TEST(PlannerProperties, KeepTogetherWhatSharedACache) {
  for_pairs([](const Topology& from, const Topology& to, Binding, unsigned) {
    expect_together(from, to, Level::kCache);
  });
}

TEST(PlannerProperties, KeepSiblingsTogether) {
  for_pairs([](const Topology& from, const Topology& to, Binding, unsigned) {
    expect_together(from, to, Level::kCore);
  });
}

TEST(PlannerProperties, BalanceThreads_WhereTheMachineIsSmaller) {
  const struct {
    const char* from;
    const char* to;
  } pairs[] = {
      {"package:2 numa:2 core:4 pu:1", "package:2 numa:1 core:4 pu:1"},
      {"package:2 numa:4 core:2 pu:1", "package:1 numa:2 core:4 pu:1"},
      {"package:4 numa:2 core:2 pu:2", "package:2 numa:2 core:2 pu:1"},
      {"package:1 numa:1 core:8 pu:1", "package:2 numa:2 core:2 pu:1"},
      {"package:2 numa:1 l3:2 core:3 pu:1", "package:2 numa:1 core:3 pu:1"},
  };
  for (const auto& [from_text, to_text] : pairs) {
    SCOPED_TRACE(std::string(from_text) + " -> " + to_text);
    const Topology from = described(from_text);
    const Topology to = described(to_text);
    const image::Placement job = job_on(from, Binding::kCpu, 3, 1024);
    const auto plan = plan_placement(job, to, {});
    ASSERT_TRUE(plan);
    std::map<int, size_t> threads;
    for (const ThreadAffinity& thread : plan->affinity) {
      ++threads[to.machine.home_of(thread.cpus.front())];
    }
    ASSERT_EQ(threads.size(), to.machine.nodes.size());
    size_t fewest = ~size_t{0};
    size_t most = 0;
    for (const auto& [node, count] : threads) {
      fewest = std::min(fewest, count);
      most = std::max(most, count);
    }
    EXPECT_LE(most, fewest + 3);  // a rank has three threads
  }
}

}  // namespace
}  // namespace fermata::numa
