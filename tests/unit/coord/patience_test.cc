// What is tried again, and what is not said to pass by itself any more.
#include "coord/patience.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "common/try_again.h"

namespace fermata::coord {
namespace {

using testing::HasSubstr;
using testing::Not;

Status in_the_way(const std::string& what) { return {Code::kBusy, what + std::string(kTryAgain)}; }

/// What many attempts came to.
Status verdict_of(Duration lasting, const std::function<Status(int)>& attempt, bool judged = true) {
  Patience patience;
  patience.lasting = lasting;
  SameEachTime same(patience);
  for (int count = 0; count < 6; ++count) same.note(attempt(count), judged);
  return same.verdict();
}

TEST(SameEachTime, WhatStandsInTheWayForAShortTime_MayStillPass) {
  const auto same = [](int) { return in_the_way("fd 4"); };
  const Status status = verdict_of(std::chrono::minutes(10), same);
  EXPECT_EQ(status.code(), Code::kBusy);
  EXPECT_EQ(status.message(), "fd 4; try again in a moment (tried 6 times)");
}

TEST(SameEachTime, WhatLasts_CannotBeHeld_AndNobodyIsToldToTryAgain) {
  const auto same = [](int) {
    return Status(Code::kBusy, in_the_way("fd 4").message() + "\n" + in_the_way("fd 5").message());
  };
  const Status status = verdict_of(Duration(0), same);
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_THAT(status.message(), HasSubstr("fd 4\nfd 5 (so at each of 6 attempts in 0 s"));
  EXPECT_THAT(status.message(), Not(HasSubstr("try again")));
}

TEST(SameEachTime, WhatChanges_MayPass_AndWhatWasNotLookedAt) {
  const auto other = [](int count) { return in_the_way("fd " + std::to_string(count)); };
  EXPECT_EQ(verdict_of(Duration(0), other).code(), Code::kBusy);
  const auto same = [](int) { return in_the_way("fd 4"); };
  EXPECT_EQ(verdict_of(Duration(0), same, /*judged=*/false).code(), Code::kBusy);
}

TEST(SameEachTime, AnotherEnd_IsToldAsItIs) {
  const auto at_last = [](int count) {
    return count < 5 ? in_the_way("fd 4") : Status(Code::kStorage, "the disk is full");
  };
  EXPECT_EQ(verdict_of(Duration(0), at_last).message(), "the disk is full");
}

TEST(Patience, GrowsFromOneAttemptToTheNext_UpToItsLimit) {
  Patience patience;
  patience.attempts = 1000;
  patience.pause = std::chrono::milliseconds(4);
  patience.longest_pause = std::chrono::milliseconds(40);
  patience.limit = std::chrono::milliseconds(500);
  // With pauses of 4 to 6 ms each time it would be a hundred.
  EXPECT_LE(try_patiently(patience, [] { return Code::kBusy; }), 40U);
}

}  // namespace
}  // namespace fermata::coord
