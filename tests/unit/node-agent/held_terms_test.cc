#include "node-agent/held_terms.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

namespace fermata::node_agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using Said = std::vector<std::string>;

constexpr PodId kPod{{7, 0}, 0, 0};
constexpr PodId kOther{{7, 0}, 1, 0};

class HeldTermsTest : public testing::Test {
 protected:
  HeldTerms::Events events() {
    HeldTerms::Events made;
    made.ask = [this](const PodId& pod) {
      add("ask " + std::to_string(pod.pod));
      return connected_;
    };
    made.pass_on = [this](const PodId& pod, uint32_t rank) {
      add("pass " + std::to_string(pod.pod) + "/" + std::to_string(rank));
    };
    made.note = [this](const PodId& pod, const std::set<uint32_t>& ranks) {
      const std::lock_guard lock(mutex_);
      noted_[pod.pod] = ranks;
    };
    return made;
  }
  void add(std::string what) {
    const std::lock_guard lock(mutex_);
    said_.push_back(std::move(what));
    changed_.notify_all();
  }
  Said said() {
    const std::lock_guard lock(mutex_);
    return said_;
  }
  std::set<uint32_t> noted(const PodId& pod) {
    const std::lock_guard lock(mutex_);
    return noted_[pod.pod];
  }
  bool wait_for(size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, seconds(60), [&] { return said_.size() >= count; });
  }

  bool connected_ = true;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Said said_;
  std::map<uint32_t, std::set<uint32_t>> noted_;
};

TEST_F(HeldTermsTest, WhatIsHeld_IsNoted_UntilAllHaveIt) {
  HeldTerms terms(minutes(10), events());
  terms.signalled(kPod, 0);
  terms.signalled(kOther, 7);
  terms.signalled(kPod, 1);
  EXPECT_EQ(noted(kPod), (std::set<uint32_t>{0, 1}));
  EXPECT_EQ(noted(kOther), (std::set<uint32_t>{7}));
  terms.decided(kPod, {});
  EXPECT_EQ(noted(kPod), std::set<uint32_t>());
  EXPECT_EQ(noted(kOther), (std::set<uint32_t>{7}));
  terms.coordinator_lost();
  EXPECT_EQ(noted(kOther), std::set<uint32_t>());
}

TEST_F(HeldTermsTest, TheCoordinatorIsAskedOnce_AndAllHaveItWhenItSaysSo) {
  HeldTerms terms(minutes(10), events());
  terms.signalled(kPod, 0);
  terms.signalled(kPod, 1);
  terms.decided(kPod, minutes(5));
  EXPECT_EQ(said(), (Said{"ask 0"}));
  terms.decided(kPod, {});
  EXPECT_EQ(said(), (Said{"ask 0", "pass 0/0", "pass 0/1"}));
}

TEST_F(HeldTermsTest, TheNextOne_IsAskedAboutAgain) {
  HeldTerms terms(minutes(10), events());
  terms.signalled(kPod, 0);
  terms.decided(kPod, {});
  terms.signalled(kPod, 0);
  EXPECT_EQ(said(), (Said{"ask 0", "pass 0/0", "ask 0"}));
}

TEST_F(HeldTermsTest, WithoutACoordinator_ItIsPassedOnAtOnce) {
  connected_ = false;
  HeldTerms terms(minutes(10), events());
  terms.signalled(kPod, 3);
  EXPECT_EQ(said(), (Said{"ask 0", "pass 0/3"}));
}

TEST_F(HeldTermsTest, WhenTheCoordinatorIsLost_AllHaveIt) {
  HeldTerms terms(minutes(10), events());
  terms.signalled(kPod, 0);
  terms.signalled(kOther, 4);
  terms.coordinator_lost();
  EXPECT_EQ(said(), (Said{"ask 0", "ask 1", "pass 0/0", "pass 1/4"}));
}

TEST_F(HeldTermsTest, ACoordinatorThatSaysNothing_IsNotWaitedForLonger) {
  HeldTerms terms(milliseconds(20), events());
  terms.signalled(kPod, 2);
  EXPECT_TRUE(wait_for(2));
  EXPECT_EQ(said(), (Said{"ask 0", "pass 0/2"}));
}

TEST_F(HeldTermsTest, WhatIsHeldForATime_IsPassedOnAfterIt) {
  HeldTerms terms(minutes(10), events());
  terms.signalled(kPod, 2);
  terms.decided(kPod, milliseconds(20));
  EXPECT_TRUE(wait_for(2));
}

TEST_F(HeldTermsTest, OfWhatIsNotHeld_TheCoordinatorIsTold) {
  HeldTerms terms(minutes(10), events());
  EXPECT_FALSE(terms.decided(kPod, minutes(5)));
  EXPECT_FALSE(terms.decided(kPod, {}));
  terms.signalled(kPod, 2);
  EXPECT_TRUE(terms.decided(kPod, minutes(5)));
  EXPECT_FALSE(terms.decided(kOther, minutes(5)));
  EXPECT_TRUE(terms.decided(kPod, {}));
  EXPECT_FALSE(terms.decided(kPod, minutes(5)));
}

TEST_F(HeldTermsTest, AWordAfterTheFirst_CountsFromThen) {
  HeldTerms terms(minutes(10), events());
  terms.signalled(kOther, 3);
  EXPECT_TRUE(terms.decided(kOther, minutes(5)));
  const auto now = std::chrono::steady_clock::now();
  EXPECT_TRUE(terms.decided(kOther, milliseconds(50)));
  EXPECT_TRUE(wait_for(2));
  EXPECT_GE(std::chrono::steady_clock::now() - now, milliseconds(50));
}

TEST_F(HeldTermsTest, AnAgentThatEnds_PassesItOn) {
  {
    HeldTerms terms(minutes(10), events());
    terms.signalled(kPod, 2);
  }
  EXPECT_EQ(said(), (Said{"ask 0", "pass 0/2"}));
}

TEST_F(HeldTermsTest, AfterThePodsEnd_NobodyGetsIt) {
  HeldTerms terms(minutes(10), events());
  terms.signalled(kPod, 2);
  terms.forget(kPod);
  terms.coordinator_lost();
  EXPECT_EQ(said(), (Said{"ask 0"}));
}

}  // namespace
}  // namespace fermata::node_agent
