#include "common/background.h"

#include <gtest/gtest.h>

#include <latch>
#include <vector>

namespace fermata {
namespace {

TEST(Background, DoesAllInOrderWhileNobodyWaits) {
  std::latch may_begin(1);
  std::vector<int> done;
  Background background;
  background.add([&] {
    may_begin.wait();
    done.push_back(0);
  });
  for (int i = 1; i < 100; ++i) background.add([&done, i] { done.push_back(i); });
  may_begin.count_down();  // add() has waited for none
  background.wait();
  ASSERT_EQ(done.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(done[static_cast<size_t>(i)], i);
}

TEST(Background, BeginsAgainWhenItWasDone) {
  Background background;
  background.wait();
  int done = 0;
  for (int i = 0; i < 100; ++i) {
    background.add([&] { ++done; });
    background.wait();
    EXPECT_EQ(done, i + 1);
  }
}

TEST(Background, WaitsNoLongerThanAllowed) {
  std::latch may_end(1);
  Background background;
  background.wait_for(std::chrono::hours(1));
  background.add([&] { may_end.wait(); });
  background.wait_for(std::chrono::milliseconds(1));  // else it would never end
  may_end.count_down();
  background.wait();
}

TEST(Background, EndsWithAllDone) {
  int done = 0;
  {
    Background background;
    for (int i = 0; i < 100; ++i) background.add([&] { ++done; });
  }
  EXPECT_EQ(done, 100);
}

}  // namespace
}  // namespace fermata
