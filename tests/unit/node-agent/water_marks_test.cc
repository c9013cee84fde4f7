#include "node-agent/water_marks.h"

#include <gtest/gtest.h>

#include <chrono>

namespace fermata::node_agent {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;

TEST(WaterMarks, LieWithinTheRoom_WhateverItIs) {
  for (uint64_t room = 16 * kMiB; room < 512 * kGiB; room += room / 3) {
    for (const unsigned writers : {1U, 2U, 16U, 256U}) {
      const auto marks = WaterMarks::of(room, writers);
      if (!marks) continue;
      EXPECT_GT(marks->low(), 0U) << room;
      EXPECT_GT(marks->high(), marks->low()) << room;
      EXPECT_GE(marks->scarce(), marks->high());
      EXPECT_LT(marks->scarce(), room) << "there is enough at first";
      EXPECT_LE(marks->high(), room) << "it has to come to that again";
      EXPECT_FALSE(marks->holds(room, false));
      EXPECT_FALSE(marks->holds(room, true));
    }
  }
}

TEST(WaterMarks, AreRefused_WhereThePodTakesAllBeforeAnybodyLooks) {
  EXPECT_FALSE(WaterMarks::of(0, 1));
  EXPECT_FALSE(WaterMarks::of(20 * kMiB, 1));
  EXPECT_TRUE(WaterMarks::of(32 * kMiB, 1)) << "a tenth of 320 MiB";
  EXPECT_FALSE(WaterMarks::of(32 * kMiB, 2));
  EXPECT_TRUE(WaterMarks::of(64 * kMiB, 2));
  EXPECT_GT(WaterMarks::of(32 * kMiB, 1)->low(), 20 * kMiB) << "rather too soon than too late";
  EXPECT_FALSE(WaterMarks::of(32 * kMiB, 64));
  EXPECT_TRUE(WaterMarks::of(4 * kGiB, 64));
  EXPECT_TRUE(WaterMarks::of(32 * kMiB, 0)) << "no fewer than one";
}

TEST(WaterMarks, LeaveWhatIsReserved) {
  const auto all = WaterMarks::of(64 * kMiB, 1);
  const auto marks = WaterMarks::of(80 * kMiB, 1, 16 * kMiB);
  ASSERT_TRUE(all && marks);
  EXPECT_EQ(marks->low(), all->low() + 16 * kMiB);
  EXPECT_EQ(marks->high(), all->high() + 16 * kMiB);
  EXPECT_FALSE(WaterMarks::of(80 * kMiB, 1, 80 * kMiB));
  EXPECT_FALSE(WaterMarks::of(80 * kMiB, 1, 100 * kMiB));
}

TEST(WaterMarks, AreFarEnoughApart) {
  const auto marks = WaterMarks::of(kGiB, 2);
  ASSERT_TRUE(marks);
  EXPECT_GE(marks->low(), 32 * kMiB);
  EXPECT_LE(marks->low(), 128 * kMiB) << "most of the room is the pod's";
  EXPECT_GE(marks->high() - marks->low(), 32 * kMiB);
  // Between them it stays as it is.
  EXPECT_FALSE(marks->holds(marks->low(), false));
  EXPECT_TRUE(marks->holds(marks->low() - 1, false));
  EXPECT_TRUE(marks->holds(marks->high() - 1, true));
  EXPECT_FALSE(marks->holds(marks->high(), true));
}

TEST(WaterMarks, AreLookedAtSooner_TheNearerTheRoomIsToThem) {
  using std::chrono::microseconds;
  const auto marks = WaterMarks::of(kGiB, 2);
  ASSERT_TRUE(marks);
  EXPECT_LE(marks->next_look(kGiB, false), microseconds(10'000));
  EXPECT_LE(marks->next_look(marks->low() + kMiB, false), microseconds(1000));
  EXPECT_GT(marks->next_look(0, false), microseconds(0));
  EXPECT_LE(marks->next_look(0, true), microseconds(2000));
  const uint64_t left = 20 * kMiB;
  const double gone_after = static_cast<double>(left) / 3e9;
  EXPECT_LT(std::chrono::duration<double>(marks->next_look(marks->low() + left, false)).count(),
            gone_after);
}

TEST(WaterMarks, OfAPodThatHasToStand_NeverLetItGo) {
  const WaterMarks marks = WaterMarks::always();
  EXPECT_TRUE(marks.holds(512 * kGiB, false));
  EXPECT_TRUE(marks.holds(512 * kGiB, true));
}

}  // namespace
}  // namespace fermata::node_agent
