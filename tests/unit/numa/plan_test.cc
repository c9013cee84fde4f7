#include "numa/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#include <cstdlib>
#include <random>

namespace fermata::numa {
namespace {

using ::testing::HasSubstr;

Topology synthetic(const char* description) {
  ::setenv("HWLOC_SYNTHETIC", description, 1);
  auto topology = current_topology();
  ::unsetenv("HWLOC_SYNTHETIC");
  return topology ? *topology : Topology{};
}

// Two packages of four cores and one node each.
Topology two_nodes() { return synthetic("pack:2 [numa] core:4 pu:1"); }

image::Placement saved_on(const Topology& topology) {
  image::Placement saved;
  saved.set_topology_signature(topology.signature);
  saved.set_numa_nodes(topology.numa_nodes);
  return saved;
}

image::ThreadPlacement* add_thread(image::Placement& saved, const char* cpus, int mode = -1,
                                   const char* nodes = "") {
  image::ThreadPlacement* thread = saved.add_threads();
  thread->set_vpid(7);
  thread->set_vtid(8);
  thread->set_cpuset(cpus);
  thread->set_policy_mode(mode);
  thread->set_policy_nodes(nodes);
  return thread;
}

image::RangePlacement* add_range(image::Placement& saved, uint64_t start, uint64_t end, int mode,
                                 const char* nodes) {
  if (saved.processes_size() == 0) saved.add_processes()->set_vpid(7);
  image::RangePlacement* range = saved.mutable_processes(0)->add_ranges();
  range->set_start(start);
  range->set_end(end);
  range->set_policy_mode(mode);
  range->set_policy_nodes(nodes);
  return range;
}

void add_run(image::RangePlacement* range, uint64_t start, uint64_t length, int node) {
  image::PageRun* run = range->add_runs();
  run->set_start(start);
  run->set_length(length);
  run->set_node(node);
}

TEST(Topology, SignatureTellsMachinesApart) {
  const Topology two = two_nodes();
  EXPECT_EQ(two.numa_nodes, 2U);
  EXPECT_EQ(two.signature, "nodes 0:0-3 1:4-7; packages 0-3 4-7; cores 0 1 2 3 4 5 6 7");
  EXPECT_EQ(two.signature, two_nodes().signature);
  EXPECT_NE(two.signature, synthetic("pack:2 [numa] core:2 pu:2").signature);
  EXPECT_NE(two.signature, synthetic("pack:1 [numa] core:8 pu:1").signature);
  EXPECT_NE(two.signature, synthetic("numa:4 core:2 pu:1").signature);
}

TEST(Plan, AppliesEverything_OnTheSameTopology) {
  const Topology topology = two_nodes();
  image::Placement saved = saved_on(topology);
  add_thread(saved, "4-5", MPOL_BIND, "1");
  image::RangePlacement* range = add_range(saved, 0x10000, 0x20000, -1, "");
  add_run(range, 0x10000, 0x8000, 0);
  add_run(range, 0x18000, 0x8000, 1);
  add_range(saved, 0x30000, 0x40000, MPOL_INTERLEAVE, "0-1");
  const auto plan = plan_placement(saved, topology, {});
  ASSERT_TRUE(plan) << plan.error().message();
  EXPECT_TRUE(plan->notes.empty());
  ASSERT_EQ(plan->affinity.size(), 1U);
  EXPECT_EQ(plan->affinity[0].vtid, 8);
  EXPECT_EQ(plan->affinity[0].cpus, (std::vector<int>{4, 5}));

  ASSERT_EQ(plan->thread_policies.size(), 1U);
  const PlannedCall& thread = plan->thread_policies[0];
  EXPECT_EQ(thread.number, SYS_set_mempolicy);
  EXPECT_EQ(thread.vtid, 8);
  EXPECT_EQ(thread.args[0], static_cast<uint64_t>(MPOL_BIND));
  EXPECT_EQ(thread.mask_argument, 1);
  EXPECT_EQ(thread.nodemask, std::vector<uint64_t>{2});
  EXPECT_EQ(thread.args[2], 65U);

  ASSERT_EQ(plan->before_contents.size(), 2U);
  const PlannedCall& second = plan->before_contents[1];
  EXPECT_EQ(second.number, SYS_mbind);
  EXPECT_EQ(second.vpid, 7);
  EXPECT_EQ(second.args[0], 0x18000U);
  EXPECT_EQ(second.args[1], 0x8000U);
  EXPECT_EQ(second.args[2], static_cast<uint64_t>(MPOL_PREFERRED));
  EXPECT_EQ(second.mask_argument, 3);
  EXPECT_EQ(second.nodemask, std::vector<uint64_t>{2});

  // The first range gets its lack of a policy back, the second its own.
  ASSERT_EQ(plan->after_contents.size(), 2U);
  EXPECT_EQ(plan->after_contents[0].args[2], static_cast<uint64_t>(MPOL_DEFAULT));
  EXPECT_EQ(plan->after_contents[0].args[1], 0x10000U);
  EXPECT_EQ(plan->after_contents[0].mask_argument, -1);
  EXPECT_EQ(plan->after_contents[1].args[2], static_cast<uint64_t>(MPOL_INTERLEAVE));
  EXPECT_EQ(plan->after_contents[1].nodemask, std::vector<uint64_t>{3});
}

TEST(Plan, StaysInsideWhatIsAllowed) {
  const Topology topology = two_nodes();
  image::Placement saved = saved_on(topology);
  add_thread(saved, "3-5", MPOL_BIND, "0-1");
  add_thread(saved, "6-7", MPOL_BIND, "1");
  image::RangePlacement* range = add_range(saved, 0x10000, 0x20000, MPOL_BIND, "1");
  add_run(range, 0x10000, 0x8000, 0);
  add_run(range, 0x18000, 0x8000, 1);
  const auto plan = plan_placement(saved, topology, {{0, 1, 2, 3}, {0}}, Mode::kKeep);
  ASSERT_TRUE(plan) << plan.error().message();
  ASSERT_EQ(plan->affinity.size(), 2U);
  EXPECT_EQ(plan->affinity[0].cpus, std::vector<int>{3});
  EXPECT_EQ(plan->affinity[1].cpus, (std::vector<int>{0, 1, 2, 3}));
  ASSERT_EQ(plan->thread_policies.size(), 1U);
  EXPECT_EQ(plan->thread_policies[0].nodemask, std::vector<uint64_t>{1});
  EXPECT_EQ(plan->before_contents.size(), 1U);
  ASSERT_EQ(plan->after_contents.size(), 1U);
  EXPECT_EQ(plan->after_contents[0].args[2], static_cast<uint64_t>(MPOL_DEFAULT));
  ASSERT_EQ(plan->notes.size(), 4U);
  EXPECT_THAT(plan->notes[0], HasSubstr("CPUs 6-7"));
  EXPECT_THAT(plan->notes[1], HasSubstr("nodes 1"));
  EXPECT_THAT(plan->notes[2], HasSubstr("0x10000"));
  EXPECT_THAT(plan->notes[3], HasSubstr("process 7"));
}

TEST(Plan, KeepsWhatIsNear_OnAnotherShape) {
  // Two ranks of two nodes, here on one package with two smaller nodes.
  const Topology before = synthetic("pack:2 [numa] core:4 pu:1");
  const Topology now = synthetic("pack:1 numa:2 core:2 pu:1");
  image::Placement saved = saved_on(before);
  *saved.mutable_machine() = record_of(before.machine);
  add_thread(saved, "0-3", MPOL_BIND, "0");
  add_thread(saved, "4", MPOL_PREFERRED, "1")->set_vpid(9);
  image::RangePlacement* range = add_range(saved, 0x10000, 0x20000, MPOL_BIND, "0");
  add_run(range, 0x10000, 0x10000, 0);
  image::RangePlacement* spread = add_range(saved, 0x30000, 0x40000, MPOL_INTERLEAVE, "0-1");
  add_run(spread, 0x30000, 0x10000, 0);
  spread->mutable_runs(0)->set_nodes("0-1");
  image::ProcessPlacement* other = saved.add_processes();
  other->set_vpid(9);
  image::RangePlacement* far = other->add_ranges();
  far->set_start(0x10000);
  far->set_end(0x20000);
  far->set_policy_mode(-1);
  add_run(far, 0x10000, 0x10000, 1);
  const auto plan = plan_placement(saved, now, {});
  ASSERT_TRUE(plan) << plan.error().message();
  EXPECT_EQ(plan->how, "regrouped");
  EXPECT_TRUE(plan->notes.empty());
  EXPECT_DOUBLE_EQ(plan->before.percent(), plan->after.percent());
  ASSERT_EQ(plan->affinity.size(), 2U);
  const int home_a = now.machine.home_of(plan->affinity[0].cpus.front());
  const int home_b = now.machine.home_of(plan->affinity[1].cpus.front());
  EXPECT_NE(home_a, home_b);
  EXPECT_EQ(plan->planned.processes(0).ranges(0).runs(0).node(), home_a);
  EXPECT_EQ(plan->planned.processes(0).ranges(0).policy_nodes(), std::to_string(home_a));
  EXPECT_EQ(plan->planned.processes(0).ranges(1).policy_nodes(), "0-1");
  EXPECT_EQ(plan->planned.processes(1).ranges(0).runs(0).node(), home_b);
  EXPECT_EQ(plan->planned.threads(1).policy_nodes(), std::to_string(home_b));
}

TEST(Plan, PartsMemoryAsItsReaders_WhereTheyPart) {
  // Eight threads of one process on one node; here four go to each of two nodes.
  const Topology before = synthetic("pack:1 [numa] core:8 pu:1");
  const Topology now = synthetic("pack:2 [numa] core:4 pu:1");
  image::Placement saved = saved_on(before);
  *saved.mutable_machine() = record_of(before.machine);
  for (int cpu = 0; cpu < 8; ++cpu) {
    add_thread(saved, std::to_string(cpu).c_str())->set_vtid(7 + cpu);
  }
  constexpr uint64_t kStart = uint64_t{1} << 30;
  constexpr uint64_t kLength = uint64_t{64} << 20;
  add_run(add_range(saved, kStart, kStart + kLength, -1, ""), kStart, kLength, 0);
  const auto plan = plan_placement(saved, now, {});
  ASSERT_TRUE(plan) << plan.error().message();
  const image::RangePlacement& range = plan->planned.processes(0).ranges(0);
  ASSERT_EQ(range.runs_size(), 2);
  EXPECT_EQ(range.runs(0).length(), kLength / 2);
  EXPECT_EQ(range.runs(0).node(), 0);
  EXPECT_EQ(range.runs(1).node(), 1);
  EXPECT_EQ(plan->before_contents.size(), 2U);
}

// Of the first and last pages of interleaved memory few are asked for: they may all be on one node.
TEST(Plan, SpreadsTheEndsOfInterleavedMemory_ButNotItsHugePages) {
  constexpr uint64_t kHuge = uint64_t{2} << 20;
  constexpr uint64_t kStart = 16 * kHuge + 0x10000;
  constexpr uint64_t kEnd = 19 * kHuge + 0x8000;
  const Topology topology = two_nodes();
  image::Placement saved = saved_on(topology);
  image::RangePlacement* range = add_range(saved, kStart, kEnd, MPOL_INTERLEAVE, "0-1");
  add_run(range, kStart, 17 * kHuge - kStart, 0);
  add_run(range, 17 * kHuge, kHuge, 1);
  add_run(range, 18 * kHuge, kEnd - 18 * kHuge, 0);
  range->mutable_runs(2)->set_bytes(kHuge + 0x3000);
  const auto plan = plan_placement(saved, topology, {});
  ASSERT_TRUE(plan) << plan.error().message();
  const image::RangePlacement& planned = plan->planned.processes(0).ranges(0);
  ASSERT_EQ(planned.runs_size(), 4);
  EXPECT_EQ(planned.runs(0).nodes(), "0-1");
  EXPECT_EQ(planned.runs(0).length(), 17 * kHuge - kStart);
  EXPECT_EQ(planned.runs(1).node(), 1);
  EXPECT_EQ(planned.runs(2).node(), 0);
  EXPECT_EQ(planned.runs(2).nodes(), "");
  EXPECT_EQ(planned.runs(2).length(), kHuge);
  EXPECT_EQ(planned.runs(3).nodes(), "0-1");
  EXPECT_EQ(planned.runs(3).length(), 0x8000U);
  EXPECT_EQ(planned.runs(2).bytes() + planned.runs(3).bytes(), kHuge + 0x3000);
}

TEST(Plan, DoesNothing_WhereItIsToBeIgnored) {
  const Topology topology = two_nodes();
  image::Placement saved = saved_on(topology);
  add_thread(saved, "4-5", MPOL_BIND, "1");
  const auto plan = plan_placement(saved, topology, {}, Mode::kIgnore);
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->affinity.empty() && plan->thread_policies.empty());
  EXPECT_FALSE(parse_mode("sometimes"));
  EXPECT_EQ(*parse_mode("keep"), Mode::kKeep);
}

// An image is untrusted: whatever its lists and numbers are, the answer is a plan or a sentence.
TEST(Plan, SurvivesAnyPlacement) {
  const std::vector<Topology> machines{two_nodes(), synthetic("pack:1 [numa] core:1 pu:1"),
                                       synthetic("pack:2 numa:2 l3:2 core:2 pu:2"),
                                       synthetic("pack:2 [numa] [numa] core:2 pu:1")};
  const std::vector<std::string> lists{"", "0", "0-3", "7", "1,3,5", "100-200", "8191", "4-7", "x"};
  std::mt19937 random(11);
  const auto any_list = [&] { return lists[random() % (random() % 8 == 0 ? 9 : 8)]; };
  size_t plans = 0;
  for (int round = 0; round < 4000; ++round) {
    image::Placement saved;
    if (random() % 4 != 0) {
      *saved.mutable_machine() = record_of(machines[random() % machines.size()].machine);
      image::Machine& machine = *saved.mutable_machine();
      for (int i = 0; i < 3 && random() % 2 == 0; ++i) {
        switch (random() % 6) {
          case 0:
            machine.mutable_nodes(0)->set_cpus(any_list());
            break;
          case 1:
            machine.clear_packages();
            break;
          case 2:
            machine.clear_cores();
            break;
          case 3:
            machine.clear_nodes();
            machine.clear_distances();
            break;
          case 4:
            machine.add_l3_caches(any_list());
            break;
          default:
            machine.clear_cores();
            machine.add_cores(any_list());
            break;
        }
      }
    }
    const Topology& here = machines[random() % machines.size()];
    saved.set_topology_signature(here.signature);
    saved.set_allowed_cpus(any_list());
    saved.set_allowed_nodes(any_list());
    for (unsigned i = random() % 4; i > 0; --i) {
      add_thread(saved, any_list().c_str(), static_cast<int>(random() % 9) - 1, any_list().c_str());
    }
    for (unsigned i = 0; i < random() % 4; ++i) {
      const uint64_t start = uint64_t{0x100000} * (i + 1);
      image::RangePlacement* range = add_range(
          saved, start, start + 0x80000, static_cast<int>(random() % 8) - 1, any_list().c_str());
      range->set_shared(random() % 3 == 0);
      for (unsigned j = 0; j < random() % 3; ++j) {
        add_run(range, start + j * 0x10000, 0x10000, static_cast<int>(random() % 6));
        if (random() % 3 == 0) range->mutable_runs(static_cast<int>(j))->set_nodes(any_list());
      }
    }
    const Allowed allowed{random() % 2 == 0 ? Numbers{} : Numbers{0, 2},
                          random() % 2 == 0 ? Numbers{} : Numbers{0}};
    const auto plan =
        plan_placement(saved, here, allowed, random() % 3 == 0 ? Mode::kKeep : Mode::kReplan);
    if (!plan) {
      EXPECT_EQ(plan.error().code(), Code::kDamaged);
      continue;
    }
    ++plans;
    for (const ThreadAffinity& thread : plan->affinity) {
      EXPECT_FALSE(thread.cpus.empty());
      EXPECT_TRUE(allowed.cpus.empty() || includes(allowed.cpus, thread.cpus));
    }
  }
  EXPECT_GT(plans, 500U);
}

TEST(Plan, DropsEverythingWithOneSentence_OnAnotherTopology) {
  image::Placement saved = saved_on(two_nodes());
  add_thread(saved, "0-3", MPOL_BIND, "0");
  add_run(add_range(saved, 0x10000, 0x20000, MPOL_BIND, "0"), 0x10000, 0x1000, 0);
  const auto plan = plan_placement(saved, synthetic("pack:1 [numa] core:4 pu:1"), {});
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->affinity.empty());
  EXPECT_TRUE(plan->before_contents.empty());
  EXPECT_TRUE(plan->after_contents.empty());
  EXPECT_TRUE(plan->thread_policies.empty());
  ASSERT_EQ(plan->notes.size(), 1U);
  EXPECT_THAT(plan->notes[0], HasSubstr("topology"));
}

TEST(Plan, AsksForNoPlaces_WhereThereIsOneNode) {
  const Topology topology = synthetic("pack:1 [numa] core:4 pu:1");
  image::Placement saved = saved_on(topology);
  add_run(add_range(saved, 0x10000, 0x20000, MPOL_BIND, "0"), 0x10000, 0x1000, 0);
  const auto plan = plan_placement(saved, topology, {});
  ASSERT_TRUE(plan);
  EXPECT_TRUE(plan->before_contents.empty());
  EXPECT_EQ(plan->after_contents.size(), 1U);
}

TEST(Plan, RefusesWhatNoMachineHas) {
  const Topology topology = two_nodes();
  const auto code_of = [&](const auto& spoil) {
    image::Placement saved = saved_on(topology);
    image::ThreadPlacement* thread = add_thread(saved, "0", MPOL_BIND, "0");
    image::RangePlacement* range = add_range(saved, 0x10000, 0x20000, MPOL_BIND, "0");
    add_run(range, 0x10000, 0x1000, 0);
    spoil(*thread, *range);
    const auto plan = plan_placement(saved, topology, {});
    return plan ? Code::kOk : plan.error().code();
  };
  using Thread = image::ThreadPlacement;
  using Range = image::RangePlacement;
  EXPECT_EQ(code_of([](Thread&, Range&) {}), Code::kOk);
  EXPECT_EQ(code_of([](Thread& t, Range&) { t.set_cpuset("0-"); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread& t, Range&) { t.set_cpuset("0-999999"); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread& t, Range&) { t.set_policy_mode(9); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread& t, Range&) { t.set_policy_nodes("x"); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread&, Range& r) { r.set_end(0x10000); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread&, Range& r) { r.set_start(0x10001); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread&, Range& r) { r.set_policy_mode(1 << 20); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread&, Range& r) { add_run(&r, 0x10000, 0x1000, 0); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread&, Range& r) { add_run(&r, 0x1f000, 0x2000, 0); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread&, Range& r) { add_run(&r, 0x1f000, 0x1000, -2); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Thread&, Range& r) { add_run(&r, 0x1f000, 0x1000, 1 << 30); }),
            Code::kDamaged);
}

}  // namespace
}  // namespace fermata::numa
