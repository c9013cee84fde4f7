// The set protocol against scripted agents: every phase that fails or is late rolls all back.
#include "coord/set_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>

namespace fermata::coord {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class FakeClock final : public Clock {
 public:
  Time now() const override { return now_; }
  void advance(Duration by) { now_ += by; }

 private:
  Time now_{seconds(1000)};
};

struct Trouble {
  Phase phase;
  Status status;    ///< what await() says; ok: it only takes long
  Duration late{};  ///< how much it takes
};

class FakeAgent final : public Agent {
 public:
  FakeAgent(std::string name, FakeClock& clock, std::vector<std::string>& events)
      : name_(std::move(name)), clock_(clock), events_(events) {}

  std::optional<Trouble> trouble;
  Status end_job_status;

  std::string node() const override { return name_; }
  void begin(Phase phase, const SetOrder&, Time) override {
    phase_ = phase;
    log(std::string(phase_name(phase)));
  }
  Result<AgentReport> await(Time) override {
    log("end of " + std::string(phase_name(phase_)));
    clock_.advance(milliseconds(10));
    if (trouble && trouble->phase == phase_) {
      clock_.advance(trouble->late);
      if (!trouble->status) return Failure(trouble->status);
    }
    AgentReport report;
    report.memory_bytes = 100;
    report.image_bytes = 120;
    report.stand_still = milliseconds(name_ == "n1" ? 30 : 20);
    report.held = milliseconds(name_ == "n1" ? 0 : 5);
    report.image = name_ + ".h5";
    report.took = milliseconds(name_ == "n1" ? 7 : 5);
    return report;
  }
  void roll_back(const SetOrder&) override { log("roll back"); }
  void await_roll_back(Time) override { log("rolled back"); }
  void end_job(const SetOrder&) override { log("end job"); }
  Status await_end(Time) override { return end_job_status; }

 private:
  void log(const std::string& what) { events_.push_back(name_ + " " + what); }

  std::string name_;
  FakeClock& clock_;
  std::vector<std::string>& events_;
  Phase phase_ = Phase::kPrepare;
};

class SetProtocol : public testing::Test {
 protected:
  SetOutcome take(bool end_job = false) {
    SetOrder order;
    order.crid = Crid{7};
    order.end_job = end_job;
    const std::array<Agent*, 2> agents{&n0_, &n1_};
    const auto judge = [this](const SetOutcome& so_far) {
      events_.push_back("judgement of " + so_far.reports[0].image + " " + so_far.reports[1].image);
      return judgement_;
    };
    const auto manifest = [this](const SetOutcome& so_far) {
      events_.push_back("manifest of " + so_far.reports[0].image + " " + so_far.reports[1].image);
      return manifest_status_;
    };
    return take_set(order, agents, deadlines_, clock_, judge, manifest);
  }

  std::vector<std::string> events_after(const std::string& event) const {
    const auto at = std::find(events_.begin(), events_.end(), event);
    return {at == events_.end() ? at : at + 1, events_.end()};
  }
  bool happened(const std::string& event) const {
    return std::find(events_.begin(), events_.end(), event) != events_.end();
  }

  FakeClock clock_;
  std::vector<std::string> events_;
  FakeAgent n0_{"n0", clock_, events_};
  FakeAgent n1_{"n1", clock_, events_};
  Deadlines deadlines_;
  Status judgement_;
  Status manifest_status_;
};

/// What a failed attempt ends with.
auto all_rolled_back() {
  return ElementsAre("n0 roll back", "n1 roll back", "n0 rolled back", "n1 rolled back");
}

TEST_F(SetProtocol, RunsEveryPhaseOnAllAgents_WithABarrierAfterEach) {
  const SetOutcome outcome = take();
  ASSERT_TRUE(outcome.committed()) << outcome.status.message();
  std::vector<std::string> expected;
  for (Phase phase : kPhases) {
    const std::string name(phase_name(phase));
    for (const std::string& event :
         {"n0 " + name, "n1 " + name, "n0 end of " + name, "n1 end of " + name}) {
      expected.push_back(event);
    }
    if (phase == Phase::kCapture) expected.emplace_back("judgement of n0.h5 n1.h5");
  }
  expected.emplace_back("manifest of n0.h5 n1.h5");
  EXPECT_EQ(events_, expected);
}

TEST_F(SetProtocol, ReportsTheLongestStandStillAndTheSumOfBytes) {
  const SetOutcome outcome = take();
  EXPECT_EQ(outcome.stand_still(), milliseconds(30));
  EXPECT_EQ(outcome.held(), milliseconds(5));
  EXPECT_EQ(outcome.memory_bytes(), 200U);
  EXPECT_EQ(outcome.image_bytes(), 240U);
  for (Duration time : outcome.phase_time) EXPECT_EQ(time, milliseconds(20));
  EXPECT_EQ(outcome.total, milliseconds(120));
  for (Duration time : outcome.took[0]) EXPECT_EQ(time, milliseconds(5));
  for (Duration time : outcome.took[1]) EXPECT_EQ(time, milliseconds(7));
}

class SetProtocolPhase : public SetProtocol, public testing::WithParamInterface<Phase> {};

TEST_P(SetProtocolPhase, FailureRollsEveryAgentBack_AndNamesTheNode) {
  n1_.trouble = Trouble{GetParam(), Status(Code::kCannotHold, "process 12 holds a unicorn"), {}};
  const SetOutcome outcome = take();
  ASSERT_FALSE(outcome.committed());
  EXPECT_EQ(outcome.status.code(), Code::kCannotHold);
  EXPECT_EQ(outcome.status.message(),
            std::string(phase_name(GetParam())) + " on n1: process 12 holds a unicorn");
  EXPECT_THAT(events_after("n1 end of " + std::string(phase_name(GetParam()))), all_rolled_back());
}

TEST_P(SetProtocolPhase, FailureOfTheFirstAgent_StillAwaitsTheSecond) {
  n0_.trouble = Trouble{GetParam(), Status(Code::kGone, "job ended"), {}};
  const SetOutcome outcome = take();
  EXPECT_THAT(outcome.status.message(), HasSubstr("on n0: job ended"));
  EXPECT_THAT(events_after("n0 end of " + std::string(phase_name(GetParam()))),
              ElementsAre("n1 end of " + std::string(phase_name(GetParam())), "n0 roll back",
                          "n1 roll back", "n0 rolled back", "n1 rolled back"));
}

TEST_P(SetProtocolPhase, WhatPassesByItselfIsNotTheReasonWhileThereIsAnother) {
  n0_.trouble = Trouble{GetParam(), Status(Code::kBusy, "a connection is being made"), {}};
  EXPECT_EQ(take().status.code(), Code::kBusy);
  n1_.trouble = Trouble{GetParam(), Status(Code::kCannotHold, "process 12 holds a unicorn"), {}};
  EXPECT_EQ(take().status.code(), Code::kCannotHold);
}

TEST_P(SetProtocolPhase, MissedDeadlineRollsEveryAgentBack) {
  deadlines_[GetParam()] = seconds(5);
  n0_.trouble = Trouble{GetParam(), Status::ok(), seconds(6)};
  const SetOutcome outcome = take();
  ASSERT_FALSE(outcome.committed());
  EXPECT_EQ(outcome.status.code(), Code::kTimeout);
  EXPECT_THAT(outcome.status.message(), HasSubstr("on n0"));
  EXPECT_TRUE(happened("n0 roll back"));
  EXPECT_TRUE(happened("n1 roll back"));
  EXPECT_FALSE(happened("manifest of n0.h5 n1.h5"));
}

TEST_P(SetProtocolPhase, FailureLeavesTheJobAlive_ThoughItWasToEnd) {
  n0_.trouble = Trouble{GetParam(), Status(Code::kStorage, "disk full"), {}};
  EXPECT_FALSE(take(true).committed());
  EXPECT_FALSE(happened("n0 end job"));
  EXPECT_FALSE(happened("n1 end job"));
}

INSTANTIATE_TEST_SUITE_P(Each, SetProtocolPhase, testing::ValuesIn(kPhases),
                         [](const testing::TestParamInfo<Phase>& tested) {
                           std::string name(phase_name(tested.param));
                           std::erase(name, ' ');
                           return name;
                         });

TEST_F(SetProtocol, CutThatIsNoSetRollsEveryAgentBack) {
  judgement_ = Status(Code::kCannotHold, "process 3 on n1, fd 4: connected to 10.9.9.9:27000");
  const SetOutcome outcome = take(true);
  ASSERT_FALSE(outcome.committed());
  EXPECT_EQ(outcome.status.message(), judgement_.message());
  EXPECT_THAT(events_after("judgement of n0.h5 n1.h5"), all_rolled_back());
}

TEST_F(SetProtocol, FailureOfTheManifestRollsEveryAgentBack) {
  manifest_status_ = Status(Code::kStorage, "no space left");
  const SetOutcome outcome = take(true);
  ASSERT_FALSE(outcome.committed());
  EXPECT_EQ(outcome.status.message(), "manifest: no space left");
  EXPECT_THAT(events_after("manifest of n0.h5 n1.h5"), all_rolled_back());
}

TEST_F(SetProtocol, EndsTheJobOnlyAfterTheManifest) {
  const SetOutcome outcome = take(true);
  ASSERT_TRUE(outcome.committed());
  EXPECT_THAT(events_after("manifest of n0.h5 n1.h5"), ElementsAre("n0 end job", "n1 end job"));
}

TEST_F(SetProtocol, SetStaysCommitted_WhenAPodCannotBeEnded) {
  n0_.end_job_status = Status(Code::kInternal, "will not die");
  const SetOutcome outcome = take(true);
  EXPECT_TRUE(outcome.committed());
  EXPECT_EQ(outcome.end_job.message(), "n0: will not die");
  EXPECT_TRUE(happened("n1 end job"));
  EXPECT_FALSE(happened("n0 roll back"));
}

}  // namespace
}  // namespace fermata::coord
