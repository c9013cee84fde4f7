#include "numa/mapping.h"

#include <gtest/gtest.h>

#include "numa/group_tree.h"
#include "numa/topology.h"

namespace fermata::numa {
namespace {

Machine machine(const char* text) {
  auto topology = described_topology(text);
  EXPECT_TRUE(topology) << text;
  return topology ? topology->machine : Machine{};
}

/// Distances by row: 10 on the diagonal, `near` where given, 20 elsewhere.
void set_distances(Machine& machine, std::initializer_list<std::array<int, 3>> pairs) {
  const size_t nodes = machine.nodes.size();
  machine.distances.assign(nodes * nodes, 20);
  for (size_t i = 0; i < nodes; ++i) machine.distances[i * nodes + i] = 10;
  for (const auto& [from, to, value] : pairs) {
    machine.distances[static_cast<size_t>(from) * nodes + static_cast<size_t>(to)] =
        static_cast<uint32_t>(value);
    machine.distances[static_cast<size_t>(to) * nodes + static_cast<size_t>(from)] =
        static_cast<uint32_t>(value);
  }
}

Usage all_of(const Machine& machine) {
  Usage usage;
  usage.cpus = machine.cpus();
  for (const NumaNode& node : machine.nodes) usage.bytes[node.number] = 1 << 30;
  return usage;
}

TEST(GroupTree, HasFiveLevelsOfAnyMachine) {
  const Machine full = machine("package:2 numa:2 l3:2 core:2 pu:2");
  const Group tree = tree_of(full);
  EXPECT_EQ(groups_at(tree, Level::kPackage).size(), 2U);
  EXPECT_EQ(groups_at(tree, Level::kNode).size(), 4U);
  EXPECT_EQ(groups_at(tree, Level::kCache).size(), 8U);
  EXPECT_EQ(groups_at(tree, Level::kCore).size(), 16U);
  EXPECT_EQ(groups_at(tree, Level::kCpu).size(), 32U);
  const Group plain = tree_of(machine("core:3 pu:1"));
  EXPECT_EQ(groups_at(plain, Level::kCache).size(), 1U);
  EXPECT_EQ(groups_at(plain, Level::kCpu).size(), 3U);
}

TEST(GroupTree, TakesPackagesOfOneNodeTogether) {
  const Group tree = tree_of(machine("numa:1 package:2 core:2 pu:1"));
  ASSERT_EQ(groups_at(tree, Level::kPackage).size(), 1U);
  ASSERT_EQ(groups_at(tree, Level::kNode).size(), 1U);
  EXPECT_EQ(groups_at(tree, Level::kNode).front()->cpus, (Numbers{0, 1, 2, 3}));
}

TEST(GroupTree, KeepsMemoryAloneApart) {
  const Group tree = tree_of(machine("package:2 [numa] [numa] core:2 pu:1"));
  const auto nodes = groups_at(tree, Level::kNode);
  ASSERT_EQ(nodes.size(), 4U);
  EXPECT_EQ(nodes[0]->cpus, (Numbers{0, 1}));
  EXPECT_TRUE(nodes[1]->cpus.empty());
}

TEST(Mapping, IsIdentity_OnTheSameMachine) {
  const Machine one = machine("package:2 numa:2 core:2 pu:1");
  const Mapping mapping = map_machines({one, {}}, all_of(one), {one, {}});
  EXPECT_EQ(mapping.kind, Mapping::Kind::kIdentity);
  for (const auto& [from, to] : mapping.cpu) EXPECT_EQ(from, to);
  for (const auto& [from, to] : mapping.node) EXPECT_EQ(to, Numbers{from});
}

TEST(Mapping, IsIdentity_WhereAllThatIsUsedIsAllowed) {
  const Machine one = machine("package:2 numa:2 core:2 pu:1");
  Usage usage;
  usage.cpus = {4, 5};
  usage.bytes = {{2, 100}};
  const Mapping mapping = map_machines({one, {}}, usage, {one, {{4, 5, 6}, {2, 3}}});
  EXPECT_EQ(mapping.kind, Mapping::Kind::kIdentity);
  EXPECT_EQ(mapping.cpu, (std::map<int, int>{{4, 4}, {5, 5}}));
  EXPECT_EQ(mapping.node.at(2), Numbers{2});
}

TEST(Mapping, MovesToAnotherPartOfTheMachine) {
  const Machine one = machine("package:2 numa:2 core:2 pu:1");
  Usage usage;
  usage.cpus = {0, 1, 2, 3};
  usage.bytes = {{0, 100}, {1, 100}};
  const Side before{one, {{0, 1, 2, 3}, {0, 1}}};
  const Side now{one, {{4, 5, 6, 7}, {2, 3}}};
  const Mapping mapping = map_machines(before, usage, now);
  EXPECT_EQ(mapping.kind, Mapping::Kind::kIsomorphic);
  EXPECT_EQ(mapping.cpu, (std::map<int, int>{{0, 4}, {1, 5}, {2, 6}, {3, 7}}));
  EXPECT_EQ(mapping.node.at(0), Numbers{2});
  EXPECT_EQ(mapping.node.at(1), Numbers{3});
}

TEST(Mapping, FollowsDistances) {
  Machine before = machine("package:2 numa:2 core:1 pu:1");
  Machine now = before;
  set_distances(before, {{0, 1, 12}, {2, 3, 12}, {0, 2, 21}, {1, 3, 21}, {0, 3, 31}, {1, 2, 31}});
  set_distances(now, {{0, 1, 12}, {2, 3, 12}, {0, 2, 31}, {1, 3, 31}, {0, 3, 21}, {1, 2, 21}});
  const Mapping mapping = map_machines({before, {}}, all_of(before), {now, {}});
  EXPECT_EQ(mapping.kind, Mapping::Kind::kIsomorphic);
  for (const auto& [a, places_a] : mapping.node) {
    for (const auto& [b, places_b] : mapping.node) {
      EXPECT_EQ(now.distance(places_a.front(), places_b.front()), before.distance(a, b));
    }
  }
}

TEST(Mapping, ExchangesPackages_WhereThatBringsDistancesBack) {
  Machine before = machine("package:4 numa:1 core:1 pu:1");
  Machine now = before;
  // A ring 0-1-2-3, and a ring 0-2-1-3.
  set_distances(before, {{0, 1, 15}, {1, 2, 15}, {2, 3, 15}, {0, 3, 15}});
  set_distances(now, {{0, 2, 15}, {1, 2, 15}, {1, 3, 15}, {0, 3, 15}});
  const Mapping mapping = map_machines({before, {}}, all_of(before), {now, {}});
  for (const auto& [a, places_a] : mapping.node) {
    for (const auto& [b, places_b] : mapping.node) {
      EXPECT_EQ(now.distance(places_a.front(), places_b.front()), before.distance(a, b));
    }
  }
}

TEST(Mapping, MergesNodesOfOnePackage) {
  const Machine before = machine("package:2 numa:2 core:2 pu:1");
  const Machine now = machine("package:1 numa:2 core:4 pu:1");
  const Mapping mapping = map_machines({before, {}}, all_of(before), {now, {}});
  EXPECT_EQ(mapping.kind, Mapping::Kind::kRegrouped);
  EXPECT_EQ(mapping.node.at(0), Numbers{0});
  EXPECT_EQ(mapping.node.at(1), Numbers{0});
  EXPECT_EQ(mapping.node.at(2), Numbers{1});
  EXPECT_EQ(mapping.node.at(3), Numbers{1});
}

TEST(Mapping, TakesANodeApartByCaches_WhereNoneIsLargeEnough) {
  const Machine before = machine("package:1 numa:1 l3:2 core:4 pu:1");
  const Machine now = machine("package:2 numa:1 l3:1 core:4 pu:1");
  const Mapping mapping = map_machines({before, {}}, all_of(before), {now, {}});
  for (int cpu = 0; cpu < 8; ++cpu) EXPECT_EQ(now.home_of(mapping.cpu.at(cpu)), cpu / 4) << cpu;
  EXPECT_EQ(mapping.node.at(0), (Numbers{0, 1}));
}

TEST(Mapping, KeepsTogether_RatherThanBalance) {
  // Four CPUs of one node, and here two nodes of four: together they fit.
  const Machine before = machine("package:1 numa:1 core:4 pu:1");
  const Machine now = machine("package:1 numa:2 core:4 pu:1");
  const Mapping mapping = map_machines({before, {}}, all_of(before), {now, {}});
  for (const auto& [from, to] : mapping.cpu) EXPECT_EQ(now.home_of(to), 0);
}

TEST(Mapping, SharesNoSiblings_WhileThereAreCores) {
  const Machine before = machine("package:1 numa:2 core:2 pu:1");
  const Machine now = machine("package:1 numa:2 core:4 pu:2");
  const Mapping mapping = map_machines({before, {}}, all_of(before), {now, {}});
  std::map<int, int> threads_on_core;
  for (const auto& [from, to] : mapping.cpu) ++threads_on_core[to / 2];
  for (const auto& [core, threads] : threads_on_core) EXPECT_EQ(threads, 1) << core;
}

TEST(Mapping, BalancesBytes_OfUnboundJobs) {
  const Machine before = machine("package:1 numa:4 core:2 pu:1");
  const Machine now = machine("package:1 numa:2 core:2 pu:1");
  Usage usage;
  usage.bytes = {{0, 600}, {1, 200}, {2, 200}, {3, 200}};
  const Mapping mapping = map_machines({before, {}}, usage, {now, {}});
  EXPECT_EQ(mapping.node.at(0), Numbers{0});
  for (const int node : {1, 2, 3}) EXPECT_EQ(mapping.node.at(node), Numbers{1}) << node;
}

TEST(Mapping, PutsMemoryAloneOnMemoryAlone) {
  const Machine before = machine("package:2 [numa] [numa] core:2 pu:1");
  const Machine now = machine("package:2 [numa] [numa] core:4 pu:1");
  const Mapping mapping = map_machines({before, {}}, all_of(before), {now, {}});
  EXPECT_EQ(mapping.node.at(1), Numbers{1});
  EXPECT_EQ(mapping.node.at(3), Numbers{3});
}

TEST(Mapping, UsesTheNearestAllowedMemory) {
  const Machine one = machine("package:2 numa:2 core:2 pu:1");
  Machine now = one;
  set_distances(now, {{0, 1, 12}, {2, 3, 12}, {0, 2, 31}, {1, 3, 21}});
  const Mapping mapping = map_machines({one, {}}, all_of(one), {now, {{}, {1, 2}}});
  EXPECT_EQ(mapping.node.at(0), Numbers{1});
  EXPECT_EQ(mapping.node.at(3), Numbers{2});
}

TEST(Mapping, MovesNothingTwice_OnASmallerMachine) {
  const Machine before = machine("package:2 numa:2 core:4 pu:2");
  const Machine now = machine("package:1 core:2 pu:1");
  const Mapping mapping = map_machines({before, {}}, all_of(before), {now, {}});
  EXPECT_EQ(mapping.cpu.size(), 32U);
  std::map<int, int> threads;
  for (const auto& [from, to] : mapping.cpu) ++threads[to];
  EXPECT_EQ(threads, (std::map<int, int>{{0, 16}, {1, 16}}));
}

}  // namespace
}  // namespace fermata::numa
