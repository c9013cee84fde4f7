// When the last set before a time limit is taken.
#include "coord/end_plan.h"

#include <gtest/gtest.h>

namespace fermata::coord {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using Act = EndPlan::Act;
using Time = EndPlan::Time;

class EndPlanTest : public testing::Test {
 protected:
  static Time at(EndPlan::Duration since) { return Time(hours(1)) + since; }
  static EndPlan::Limit limit(EndPlan::Duration end) { return {at(seconds(0)), at(end)}; }

  /// Acts on the plan as a job does until a set is due; what is due, and when.
  static EndPlan::Next until_set(EndPlan& plan, Time now, EndPlan::Limit limit) {
    for (int i = 0; i < 1000; ++i) {
      const std::optional<EndPlan::Next> next = plan.next();
      if (!next) break;
      now = std::max(now, next->when);
      if (next->act != Act::kAsk) return {next->act, now};
      plan.answered(now, limit);
    }
    ADD_FAILURE() << "no set is ever due";
    return {Act::kAsk, now};
  }
};

TEST_F(EndPlanTest, TheLimitIsAskedForFirst) {
  const EndPlan plan(seconds(10), seconds(4));
  ASSERT_TRUE(plan.next());
  EXPECT_EQ(plan.next()->act, Act::kAsk);
  EXPECT_LE(plan.next()->when, at(seconds(0)));
}

TEST_F(EndPlanTest, TheLastSet_LeavesTheMarginAndAsMuchAsSetsTook) {
  EndPlan plan(seconds(10), seconds(4));
  const EndPlan::Next set = until_set(plan, at(seconds(0)), limit(minutes(10)));
  EXPECT_EQ(set.act, Act::kLast);
  EXPECT_LE(set.when, at(minutes(10) - seconds(10 + 4)));
  EXPECT_GE(set.when, at(minutes(10) - seconds(10 + 4 + 6)));
}

TEST_F(EndPlanTest, WhereNothingIsKnown_ASetMeasures) {
  EndPlan plan(seconds(10), seconds(0));
  const EndPlan::Next first = until_set(plan, at(seconds(0)), limit(minutes(10)));
  EXPECT_EQ(first.act, Act::kMeasure);
  EXPECT_LE(first.when, at(minutes(5)));
  EXPECT_GE(first.when, at(minutes(4)));
  plan.measured(seconds(30));
  const EndPlan::Next last = until_set(plan, first.when, limit(minutes(10)));
  EXPECT_EQ(last.act, Act::kLast);
  EXPECT_LE(last.when, at(minutes(10) - seconds(40)));
}

TEST_F(EndPlanTest, ALimitThatMoves_MovesTheSet) {
  EndPlan plan(seconds(10), seconds(4));
  plan.answered(at(seconds(0)), limit(minutes(10)));
  const EndPlan::Next sooner = until_set(plan, at(seconds(1)), limit(minutes(5)));
  EXPECT_LE(sooner.when, at(minutes(5) - seconds(14)));
  plan.answered(sooner.when, limit(minutes(20)));
  const EndPlan::Next later = until_set(plan, sooner.when, limit(minutes(20)));
  EXPECT_GE(later.when, at(minutes(19)));
}

TEST_F(EndPlanTest, SlurmsLastWord_IsFreshWhenTheLastSetIsTaken) {
  EndPlan plan(seconds(10), seconds(4));
  Time now = at(seconds(0));
  Time asked = now;
  for (std::optional<EndPlan::Next> next = plan.next(); next; next = plan.next()) {
    now = std::max(now, next->when);
    if (next->act != Act::kAsk) break;
    asked = now;
    plan.answered(now, limit(hours(24)));
  }
  EXPECT_LE(now - asked, seconds(5));
}

TEST_F(EndPlanTest, ASetThatFails_IsTriedAgain_UntilOneIsDone) {
  EndPlan plan(seconds(10), seconds(4));
  const EndPlan::Next first = until_set(plan, at(seconds(0)), limit(minutes(2)));
  plan.failed(first.when);
  const EndPlan::Next second = until_set(plan, first.when, limit(minutes(2)));
  EXPECT_GT(second.when, first.when);
  EXPECT_LT(second.when, first.when + seconds(10));
  plan.done();
  EXPECT_FALSE(plan.next());
}

TEST_F(EndPlanTest, ShortlyBeforeTheLastSet_ThereIsNoTimeForAnother) {
  EndPlan plan(seconds(10), seconds(20));
  EXPECT_FALSE(plan.leaves_no_time(at(minutes(9))));
  plan.answered(at(seconds(0)), limit(minutes(10)));
  EXPECT_FALSE(plan.leaves_no_time(at(minutes(8))));
  EXPECT_TRUE(plan.leaves_no_time(at(minutes(9))));
  plan.done();
  EXPECT_FALSE(plan.leaves_no_time(at(minutes(9))));
}

TEST_F(EndPlanTest, WithoutALimit_NothingIsDone_ButAsking) {
  EndPlan plan(seconds(10), seconds(4));
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(plan.next()->act, Act::kAsk);
    plan.answered(std::max(at(seconds(0)), plan.next()->when), std::nullopt);
  }
}

TEST_F(EndPlanTest, ATimeLimitThatIsAllSets_IsSaidToBe) {
  EndPlan plan(seconds(10), seconds(60));
  plan.answered(at(seconds(0)), limit(seconds(70)));
  EXPECT_NE(plan.hopeless().find("time limit of 1m10s is too short"), std::string::npos);
  EXPECT_EQ(plan.next()->act, Act::kAsk);
  plan.answered(at(seconds(1)), limit(minutes(10)));
  EXPECT_EQ(plan.hopeless(), "");
}

}  // namespace
}  // namespace fermata::coord
