#include "numa/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "numa/topology.h"

namespace fermata::numa {
namespace {

using ::testing::HasSubstr;

Machine machine(const char* text) {
  auto topology = described_topology(text);
  EXPECT_TRUE(topology) << text;
  return topology ? topology->machine : Machine{};
}

TEST(Machine, IsRecordedAndReadBack) {
  Machine one = machine("package:2 numa:2 l3:2 core:2 pu:2");
  one.nodes[1].bytes = 1 << 20;
  one.distances.assign(16, 20);
  const auto read = machine_of(record_of(one));
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_TRUE(read->same_shape_and_numbers(one));
  EXPECT_EQ(read->nodes, one.nodes);
  EXPECT_EQ(signature_of(*read), signature_of(one));
}

TEST(Machine, RefusesWhatNoMachineIs) {
  const auto code_of = [](const auto& spoil) {
    image::Machine record = record_of(machine("package:2 numa:1 core:2 pu:1"));
    spoil(record);
    const auto read = machine_of(record);
    return read ? Code::kOk : read.error().code();
  };
  using Record = image::Machine;
  EXPECT_EQ(code_of([](Record&) {}), Code::kOk);
  EXPECT_EQ(code_of([](Record& r) { r.mutable_nodes(0)->set_number(1); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Record& r) { r.mutable_nodes(0)->set_number(-1); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Record& r) { r.mutable_nodes(1)->set_number(1 << 20); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Record& r) { r.mutable_nodes(1)->set_cpus("x"); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Record& r) { r.add_packages("0-3"); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Record& r) { r.add_cores(""); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Record& r) { r.add_distances(10); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Record& r) {
              for (int i = 0; i < 2000; ++i) r.add_nodes()->set_number(i + 2);
            }),
            Code::kDamaged);
}

TEST(Machine, KnowsTheHomeOfACpu) {
  const Machine nested = machine("[numa] package:2 [numa] core:2 pu:1");
  ASSERT_EQ(nested.nodes.size(), 3U);
  EXPECT_EQ(nested.home_of(0), 0);
  EXPECT_EQ(nested.home_of(3), 1);
  EXPECT_EQ(nested.home_of(99), -1);
}

TEST(Machine, IsWhatLimitsLeaveOfIt) {
  Machine one = machine("package:2 numa:2 core:2 pu:1");
  one.distances = {10, 12, 21, 22, 12, 10, 23, 24, 21, 23, 10, 12, 22, 24, 12, 10};
  const Machine left = restricted(one, {{1, 2, 3, 6}, {0, 1}});
  EXPECT_EQ(signature_of(left), "nodes 0:1 1:2-3 3:6; packages 1-3 6; cores 1 2 3 6");
  EXPECT_EQ(left.distance(0, 3), 22U);
  EXPECT_EQ(left.distance(3, 1), 24U);
  EXPECT_EQ(left.distance(0, 77), 20U);
  EXPECT_TRUE(restricted(one, {}).same_shape_and_numbers(one));
}

TEST(Topology, RefusesWhatIsNoMachine) {
  for (const char* text : {"", "nonsense", "/nonexistent.xml", "package:0", "core:x"}) {
    const auto topology = described_topology(text);
    ASSERT_FALSE(topology) << text;
    EXPECT_EQ(topology.error().code(), Code::kUsage);
  }
  const auto file = described_topology("/etc/passwd");
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().message(), HasSubstr("/etc/passwd"));
}

}  // namespace
}  // namespace fermata::numa
