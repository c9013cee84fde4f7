#include "common/first_to_go.h"

#include <gtest/gtest.h>

#include <fstream>
#include <optional>
#include <string>

namespace fermata {
namespace {

std::string now() {
  std::string score;
  std::ifstream("/proc/self/oom_score_adj") >> score;
  return score;
}

TEST(FirstToGo, IsSoOnlyMeanwhile) {
  const std::string before = now();
  {
    const FirstToGo first;
    EXPECT_EQ(now(), "1000");
    EXPECT_EQ(usual_oom_score(), before);
  }
  EXPECT_EQ(now(), before);
  EXPECT_EQ(usual_oom_score(), before);
}

// Sets of two pods overlap.
TEST(FirstToGo, IsSoUntilTheLastHasGone) {
  const std::string before = now();
  std::optional<FirstToGo> one(std::in_place);
  std::optional<FirstToGo> two(std::in_place);
  one.reset();
  EXPECT_EQ(now(), "1000");
  EXPECT_EQ(usual_oom_score(), before);
  two.reset();
  EXPECT_EQ(now(), before);
}

}  // namespace
}  // namespace fermata
