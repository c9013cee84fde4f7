#include "storage/unit_order.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

namespace fermata::storage {
namespace {

TEST(UnitOrder, TellsEachOnce_InOrder) {
  UnitOrder order(3);
  EXPECT_EQ(order.next(), 0U);
  EXPECT_EQ(order.next(), 1U);
  EXPECT_EQ(order.next(), 2U);
  EXPECT_FALSE(order.next());
  EXPECT_FALSE(UnitOrder(0).next());
}

TEST(UnitOrder, TellsFirstWhatFreesMuch_WhereverThatIs) {
  UnitOrder order(1000);
  const auto frees = [](uint64_t unit) { return unit >= 700 && unit < 703 ? 100U : 0U; };
  std::set<uint64_t> told;
  for (int i = 0; i < 60; ++i) told.insert(*order.next(frees, 50));
  EXPECT_EQ(told.size(), 60U);
  for (const uint64_t unit : {700U, 701U, 702U}) EXPECT_TRUE(told.contains(unit)) << unit;
}

TEST(UnitOrder, GoesOnWhereItWas) {
  UnitOrder order(1000);
  const auto frees = [](uint64_t unit) { return unit >= 10 ? 100U : 0U; };
  for (uint64_t unit = 10; unit < 100; ++unit) EXPECT_EQ(order.next(frees, 50), unit);
  EXPECT_EQ(order.next(), 0U);
}

TEST(UnitOrder, TakesTheMostOfThoseLookedAt_WhereNoneFreesEnough) {
  UnitOrder order(20);
  EXPECT_EQ(order.next([](uint64_t unit) { return unit == 7 ? 2U : 1U; }, 50), 7U);
}

TEST(UnitOrder, StopsAsking_WhereAllFreeMuchTheSame) {
  UnitOrder order(1000);
  unsigned asked = 0;
  const auto frees = [&](uint64_t unit) {
    ++asked;
    return 10 + unit % 3;
  };
  for (int i = 0; i < 330; ++i) ASSERT_TRUE(order.next(frees, 50));
  EXPECT_LE(asked, 1000U) << "not all that are near for each";
  EXPECT_GE(asked, 300U) << "but again and again";
}

TEST(UnitOrder, TellsAllOnce_HoweverItIsAsked) {
  constexpr uint64_t kUnits = 5000;
  UnitOrder order(kUnits);
  std::vector<uint64_t> told[2];
  std::thread other([&] {
    while (const auto unit = order.next()) told[0].push_back(*unit);
  });
  while (const auto unit = order.next([](uint64_t one) { return one % 7; }, 6)) {
    told[1].push_back(*unit);
  }
  other.join();
  std::set<uint64_t> all(told[0].begin(), told[0].end());
  all.insert(told[1].begin(), told[1].end());
  EXPECT_EQ(all.size(), kUnits);
  EXPECT_EQ(told[0].size() + told[1].size(), kUnits);
}

}  // namespace
}  // namespace fermata::storage
