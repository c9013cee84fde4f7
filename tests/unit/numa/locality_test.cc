#include "numa/locality.h"

#include <gtest/gtest.h>

#include "numa/comparison.h"
#include "numa/topology.h"

namespace fermata::numa {
namespace {

constexpr uint64_t kMega = uint64_t{1} << 20;

Machine two_nodes() {
  auto topology = described_topology("package:2 [numa] core:2 pu:1");
  return topology ? topology->machine : Machine{};
}

image::ThreadPlacement* add_thread(image::Placement& placement, int vpid, int vtid,
                                   const char* cpus) {
  image::ThreadPlacement* thread = placement.add_threads();
  thread->set_vpid(vpid);
  thread->set_vtid(vtid);
  thread->set_cpuset(cpus);
  return thread;
}

void add_run(image::Placement& placement, int vpid, uint64_t start, uint64_t bytes, int node,
             const char* nodes = "") {
  image::ProcessPlacement* process = nullptr;
  for (auto& one : *placement.mutable_processes()) {
    if (one.vpid() == vpid) process = &one;
  }
  if (process == nullptr) {
    process = placement.add_processes();
    process->set_vpid(vpid);
  }
  image::RangePlacement* range = process->add_ranges();
  range->set_start(start);
  range->set_end(start + bytes);
  image::PageRun* run = range->add_runs();
  run->set_start(start);
  run->set_length(bytes);
  run->set_bytes(bytes);
  run->set_node(node);
  run->set_nodes(nodes);
}

TEST(Locality, CountsBytesOnNodesOfTheirThreads) {
  image::Placement placement;
  add_thread(placement, 7, 7, "0");
  add_thread(placement, 8, 8, "2-3");
  add_run(placement, 7, 0x10000000, 3 * kMega, 0);
  add_run(placement, 7, 0x20000000, kMega, 1);
  add_run(placement, 8, 0x10000000, 4 * kMega, 0, "0-1");
  const auto locality = locality_of(placement, two_nodes());
  ASSERT_TRUE(locality);
  ASSERT_EQ(locality->processes.size(), 2U);
  EXPECT_EQ(locality->processes[0].local, 3 * kMega);
  EXPECT_EQ(locality->processes[1].local, 2 * kMega);
  EXPECT_DOUBLE_EQ(locality->percent(), 62.5);
}

TEST(Locality, IsWhole_WhereThereIsNoMemory) {
  EXPECT_DOUBLE_EQ(locality_of({}, two_nodes())->percent(), 100.0);
}

TEST(Locality, RefusesNumbersThatAreNone) {
  image::Placement placement;
  add_run(placement, 7, 0x10000000, kMega, -1);
  ASSERT_FALSE(locality_of(placement, two_nodes()));
  EXPECT_EQ(locality_of(placement, two_nodes()).error().code(), Code::kDamaged);
}

TEST(Comparison, FindsWhatStrayed) {
  image::Placement planned;
  add_thread(planned, 7, 7, "0");
  add_thread(planned, 7, 8, "1");
  add_run(planned, 7, 0x10000000, 4 * kMega, 0);
  image::Placement found;
  add_thread(found, 7, 7, "0");
  add_thread(found, 7, 8, "2-3");
  add_thread(found, 7, 9, "0");
  add_run(found, 7, 0x10000000, 3 * kMega, 0);
  add_run(found, 7, 0x10000000 + 3 * kMega, kMega, 1);
  add_run(found, 7, 0x50000000, 2 * kMega, 1);
  const auto comparison = compare(planned, found);
  ASSERT_TRUE(comparison);
  ASSERT_EQ(comparison->processes.size(), 1U);
  const ProcessComparison& one = comparison->processes[0];
  EXPECT_EQ(one.threads, 2U);
  EXPECT_EQ(one.threads_in_place, 1U);
  EXPECT_EQ(one.new_threads, 1U);
  EXPECT_EQ(one.bytes, 4 * kMega);
  EXPECT_EQ(one.bytes_in_place, 3 * kMega);
  EXPECT_EQ(one.new_bytes, 2 * kMega);
  EXPECT_EQ(comparison->all.bytes, one.bytes);
}

}  // namespace
}  // namespace fermata::numa
