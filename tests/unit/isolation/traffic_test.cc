// What isolation costs a pod's traffic, in bounds that hold on a loaded machine; bench/ has
// figures.
#include "tests/unit/isolation/traffic.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

namespace fermata::isolation {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

TEST(Traffic, NudgedAfterACut_FlowsAtOnce) {
  in_network([] {
    Traffic traffic;
    std::chrono::duration<double> best = 1h;
    for (int round = 0; round < 5 && best > 50ms * slowdown(); ++round) {
      best = std::min(best, time_to_first_byte(traffic, 1s, true));
    }
    EXPECT_LT(best.count(), 0.05 * slowdown());
  });
}

TEST(Traffic, NotNudged_FlowsByItself) {
  in_network([] {
    Traffic traffic;
    EXPECT_LT(time_to_first_byte(traffic, 1s, false).count(), 20 * slowdown());
  });
}

TEST(Traffic, FlipIsAStore) {
  const PodGroup group;
  Result<Isolation> isolation = Isolation::install(group.path());
  ASSERT_TRUE(isolation) << isolation.error().message();
  constexpr int kFlips = 1000;
  const auto start = steady_clock::now();
  for (int i = 0; i < kFlips; ++i) {
    isolation->cut(1s);
    isolation->join();
  }
  EXPECT_LT(seconds_since(start) / kFlips, 100e-6 * slowdown());
}

TEST(Traffic, ThroughputStays) {
  in_network([] {
    const PodGroup with;
    const PodGroup without;
    const Result<Isolation> isolation = Isolation::install(with.path());
    ASSERT_TRUE(isolation) << isolation.error().message();
    constexpr size_t kBytes = 64UL << 20;
    double best = 0;
    for (int round = 0; round < 10 && best < 0.8; ++round) {
      best = std::max(best, time_of_stream(&without, kBytes) / time_of_stream(&with, kBytes));
    }
    EXPECT_GT(best, 0.8);
  });
}

}  // namespace
}  // namespace fermata::isolation
