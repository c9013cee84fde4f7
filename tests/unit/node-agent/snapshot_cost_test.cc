#include "node-agent/snapshot_cost.h"

#include <gtest/gtest.h>

namespace fermata::node_agent {
namespace {

constexpr uint64_t kGiB = 1U << 30;
constexpr MemoryUse kOneProcess{.own = kGiB, .shared = 0, .processes = 1, .threads = 1};

TEST(SnapshotCost, AtFirst_IsThatOfTheFigures) {
  const SnapshotCost cost;
  EXPECT_NEAR(cost.of_copy(250'000'000), 0.1, 1e-9);
  EXPECT_NEAR(cost.of_twins(kOneProcess), 0.0342, 1e-9);
  // What a fork leaves out is copied.
  EXPECT_NEAR(cost.of_twins({.own = kGiB, .shared = 250'000'000, .processes = 1, .threads = 1}),
              0.1342, 1e-9);
}

TEST(SnapshotCost, FollowsWhatThePodsOwnTook) {
  SnapshotCost cost;
  // Huge pages: the tables of 1 GiB are one page.
  for (int i = 0; i < 10; ++i) cost.forked(kOneProcess, 0.001);
  EXPECT_NEAR(cost.of_twins(kOneProcess), 0.001, 1e-4);
  EXPECT_NEAR(cost.of_copy(250'000'000), 0.1, 1e-9) << "which nothing was learned of";
  for (int i = 0; i < 10; ++i) cost.copied(250'000'000, 0.2);
  EXPECT_NEAR(cost.of_copy(250'000'000), 0.2, 1e-3);
  EXPECT_NEAR(cost.of_copy(500'000'000), 0.4, 2e-3);
}

TEST(SnapshotCost, OneSampleIsNotTheTruth_NorOneOfLittleMemory) {
  SnapshotCost cost;
  cost.copied(250'000'000, 100);
  EXPECT_LT(cost.of_copy(250'000'000), 0.5);
  const double before = cost.of_copy(kGiB);
  cost.copied(4096, 1);
  cost.forked({.own = 4096, .shared = 0, .processes = 1, .threads = 1}, 1);
  EXPECT_EQ(cost.of_copy(kGiB), before);
  EXPECT_NEAR(cost.of_twins(kOneProcess), 0.0342, 1e-9);
}

TEST(SnapshotCost, WhatIsNotMeasuredAnyMore_IsForgotten) {
  SnapshotCost cost;
  for (int i = 0; i < 10; ++i) cost.forked(kOneProcess, 0.2);
  EXPECT_GT(cost.of_twins(kOneProcess), 0.19);
  for (int i = 0; i < 50; ++i) cost.age();
  EXPECT_NEAR(cost.of_twins(kOneProcess), 0.0342, 0.002);
}

}  // namespace
}  // namespace fermata::node_agent
