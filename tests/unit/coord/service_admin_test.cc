// What admins and users ask of jobs on pretended nodes: to move, to hold still, to be left alone.
#include <ctime>

#include "coord/wire.h"
#include "storage/ledger.h"
#include "tests/unit/coord/service_fixture.h"

namespace fermata::coord {
namespace {

class AdminTest : public ServiceTest {
 protected:
  AdminTest() { start_with_nodes(); }

  wire::ControlReply control(uint64_t job, wire::ControlRequest::Action action,
                             std::optional<Caller> caller = std::nullopt) {
    wire::ControlRequest request;
    request.set_job(job);
    request.set_action(action);
    return answer<wire::ControlReply>([&](auto respond) {
      service_->control(caller.value_or(me()), request, std::move(respond));
    });
  }
  wire::RequeueReply requeue(const wire::RequeueRequest& request) {
    return answer<wire::RequeueReply>(
        [&](auto respond) { service_->requeue(me(), request, std::move(respond)); });
  }
  wire::RequeueRequest of(uint64_t job) const {
    wire::RequeueRequest request;
    request.set_job(job);
    return request;
  }
  wire::NodesReply drain(const std::vector<std::string>& nodes, bool drain = true) {
    wire::DrainRequest request;
    for (const std::string& node : nodes) request.add_nodes(node);
    request.set_drain(drain);
    request.set_reason("fan");
    return answer<wire::NodesReply>(
        [&](auto respond) { service_->drain(me(), request, std::move(respond)); });
  }
  uint64_t job_on(const std::string& node, uint32_t ranks) {
    wire::RunRequest request = program(ranks, 1);
    request.add_nodes(node);
    const wire::RunReply reply = run(request);
    EXPECT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
    return reply.job();
  }
  void no_capture() {
    fleet_.set_trouble([](const std::string&, const wire::Order& order) {
      return order.has_phase() && order.phase().phase() == static_cast<uint32_t>(Phase::kCapture)
                 ? std::optional(Status(Code::kCannotHold, "process 9 holds a lease"))
                 : std::nullopt;
    });
  }
  std::vector<storage::LedgerSet> committed() const {
    std::vector<storage::LedgerSet> sets = *storage::Ledger::open(sets_folder())->sets();
    std::erase_if(sets, [](const auto& set) { return set.state != storage::SetState::kCommitted; });
    return sets;
  }
  std::filesystem::path sets_folder() const { return sets(); }
};

TEST_F(AdminTest, DisableNests_AndRefusesSetsUntilEnabledAsOften) {
  const uint64_t job = running_job();
  EXPECT_EQ(control(job, wire::ControlRequest::DISABLE).disabled(), 1U);
  EXPECT_EQ(control(job, wire::ControlRequest::DISABLE).disabled(), 2U);
  EXPECT_EQ(status_of(checkpoint(job).outcome()).code(), Code::kBusy);
  EXPECT_THAT(able(job).outcome().message(), HasSubstr("disabled"));
  EXPECT_EQ(control(job, wire::ControlRequest::ENABLE).disabled(), 1U);
  EXPECT_EQ(status_of(checkpoint(job).outcome()).code(), Code::kBusy);
  EXPECT_EQ(control(job, wire::ControlRequest::ENABLE).disabled(), 0U);
  EXPECT_EQ(control(job, wire::ControlRequest::ENABLE).disabled(), 0U) << "once more is no harm";
  EXPECT_EQ(checkpoint(job).outcome().code(), 0);
  EXPECT_THAT(fleet_.pods(), SizeIs(3)) << "the job runs on";
}

TEST_F(AdminTest, DisabledJobsStayDisabled_WhenTheCoordinatorDies) {
  const uint64_t job = running_job();
  control(job, wire::ControlRequest::DISABLE);
  EXPECT_TRUE(eventually([&] { return store_->jobs()->front().disabled() == 1; }));
  start_with_nodes();
  EXPECT_EQ(control(job, wire::ControlRequest::TELL).disabled(), 1U);
}

TEST_F(AdminTest, TheLastRequestIsRemembered) {
  const uint64_t job = running_job();
  EXPECT_EQ(control(job, wire::ControlRequest::TELL).last_time(), 0);
  no_capture();
  checkpoint(job);
  const wire::ControlReply failed = control(job, wire::ControlRequest::TELL);
  EXPECT_EQ(failed.last_code(), exit_code_of(Code::kCannotHold));
  EXPECT_THAT(failed.last_message(), HasSubstr("process 9 holds a lease"));
  EXPECT_GT(failed.last_time(), 0);
  fleet_.set_trouble({});
  checkpoint(job, true);
  wait(job);
  // Of the job that has ended.
  EXPECT_TRUE(eventually([&] { return jobs().empty(); }));
  const wire::ControlReply done = control(job, wire::ControlRequest::TELL);
  EXPECT_EQ(done.last_code(), 0);
  EXPECT_THAT(done.last_message(), HasSubstr("committed"));
  EXPECT_EQ(status_of(control(job, wire::ControlRequest::DISABLE).outcome()).code(),
            Code::kNotFound);
}

TEST_F(AdminTest, OthersMayNotAsk) {
  const uint64_t job = running_job();
  const Caller other{getuid() + 4711, 1, false};
  EXPECT_EQ(status_of(control(job, wire::ControlRequest::TELL, other).outcome()).code(),
            Code::kPermission);
  EXPECT_EQ(status_of(control(job, wire::ControlRequest::DISABLE, other).outcome()).code(),
            Code::kPermission);
  const auto reply = answer<wire::RequeueReply>(
      [&](auto respond) { service_->requeue(other, of(job), std::move(respond)); });
  EXPECT_EQ(status_of(reply.outcome()).code(), Code::kPermission);
  EXPECT_THAT(fleet_.pods(), SizeIs(3));
}

TEST_F(AdminTest, ASetUnderWayIsTold_AndAnotherIsRefused) {
  const uint64_t job = running_job();
  fleet_.set_silent([](const std::string& node, const wire::Order& order) {
    return node == "n2" && order.has_phase() &&
           order.phase().phase() == static_cast<uint32_t>(Phase::kWriteBack);
  });
  auto first = std::async(std::launch::async, [&] {
    wire::CheckpointRequest request;
    request.set_job(job);
    request.set_max_wait_ms(2000);
    return answer<wire::CheckpointReply>(
        [&](auto respond) { service_->checkpoint(me(), request, std::move(respond)); });
  });
  ASSERT_TRUE(eventually([&] { return control(job, wire::ControlRequest::TELL).began() != 0; }));
  wire::CheckpointRequest second;
  second.set_job(job);
  second.set_if_idle(true);
  const auto refused = answer<wire::CheckpointReply>(
      [&](auto respond) { service_->checkpoint(me(), second, std::move(respond)); });
  EXPECT_EQ(status_of(refused.outcome()).code(), Code::kBusy);
  // What waits no longer than it was asked to.
  const Status late = status_of(first.get().outcome());
  EXPECT_EQ(late.code(), Code::kTimeout);
  EXPECT_THAT(late.message(), HasSubstr("2s"));
  EXPECT_EQ(control(job, wire::ControlRequest::TELL).began(), 0);
  fleet_.set_silent({});
  EXPECT_EQ(checkpoint(job).outcome().code(), 0);
}

TEST_F(AdminTest, ASetElsewhereLeavesTheJobsOwnAlone) {
  const uint64_t job = running_job();
  ASSERT_EQ(checkpoint(job).outcome().code(), 0);
  wire::CheckpointRequest request;
  request.set_job(job);
  request.set_checkpoint_dir(scratch_ / "elsewhere");
  const auto reply = answer<wire::CheckpointReply>(
      [&](auto respond) { service_->checkpoint(me(), request, std::move(respond)); });
  EXPECT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  EXPECT_THAT(committed(), SizeIs(1));
  EXPECT_EQ(storage::Ledger::open(scratch_ / "elsewhere")->latest_committed()->crid.value,
            reply.crid());
  EXPECT_NE(jobs()[0].last_crid(), reply.crid());
}

TEST_F(AdminTest, RequeuedJobsGoOn_AndThoseWhoWaitGoOnWaiting) {
  const uint64_t job = running_job();
  auto ended = std::async(std::launch::async, [&] { return wait(job); });
  ASSERT_TRUE(eventually([&] { return jobs().size() == 1; }));
  const wire::RequeueReply reply = requeue(of(job));
  ASSERT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  EXPECT_GT(reply.crid(), 0U);
  EXPECT_EQ(reply.from(), reply.crid());
  EXPECT_THAT(reply.nodes(), ElementsAre("n1", "n2", "n3"));
  ASSERT_THAT(jobs(), SizeIs(1));
  EXPECT_EQ(jobs()[0].start(), 1U);
  EXPECT_EQ(ended.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  for (uint32_t pod = 0; pod < 3; ++pod) {
    fleet_.end_pod("n" + std::to_string(pod + 1), {{job, 0}, pod, 1}, exited(4));
  }
  EXPECT_EQ(ended.get().exit_status(), 4);
}

TEST_F(AdminTest, WhatCannotBeHeldIsNotEnded_UnlessForced) {
  const uint64_t job = running_job();
  ASSERT_EQ(checkpoint(job).outcome().code(), 0);
  const uint64_t last = jobs()[0].last_crid();
  no_capture();
  const wire::RequeueReply kept = requeue(of(job));
  EXPECT_EQ(status_of(kept.outcome()).code(), Code::kCannotHold);
  EXPECT_FALSE(kept.ended());
  EXPECT_EQ(kept.crid(), 0U);
  EXPECT_EQ(jobs()[0].start(), 0U);

  wire::RequeueRequest force = of(job);
  force.set_force(true);
  const wire::RequeueReply forced = requeue(force);
  EXPECT_TRUE(forced.ended());
  EXPECT_EQ(forced.from(), last) << forced.outcome().message();
  EXPECT_EQ(jobs()[0].start(), 1U);
}

TEST_F(AdminTest, ForcedWithoutAnySet_TheJobHasEndedAndSaysSo) {
  const uint64_t job = running_job();
  auto ended = std::async(std::launch::async, [&] { return wait(job); });
  no_capture();
  wire::RequeueRequest force = of(job);
  force.set_force(true);
  const wire::RequeueReply reply = requeue(force);
  EXPECT_NE(reply.outcome().code(), 0);
  EXPECT_TRUE(reply.ended());
  EXPECT_EQ(reply.from(), 0U);
  EXPECT_THAT(ended.get().sentence(), HasSubstr("by force"));
}

TEST_F(AdminTest, NothingIsPlacedOnADrainedNode) {
  const wire::NodesReply drained = drain({"n2"});
  ASSERT_EQ(drained.outcome().code(), 0) << drained.outcome().message();
  ASSERT_THAT(drained.nodes(), SizeIs(1));
  EXPECT_EQ(drained.nodes(0).drain_reason(), "fan");
  EXPECT_GT(drained.nodes(0).drained(), 0);
  const wire::RunReply reply = run(program(4, 2));
  EXPECT_THAT(reply.nodes(), ElementsAre("n1", "n3"));
  wire::RunRequest named = program(1, 1);
  named.add_nodes("n2");
  EXPECT_THAT(run(named).outcome().message(), HasSubstr("n2 is drained"));
  // It stays so when the coordinator dies.
  start_with_nodes();
  EXPECT_THAT(run(named).outcome().message(), HasSubstr("n2 is drained"));
  EXPECT_EQ(drain({"n2"}, false).nodes(0).drained(), 0);
  EXPECT_EQ(run(named).outcome().code(), 0);
}

TEST_F(AdminTest, ANodeThatIsNotKnownCannotBeDrained) {
  EXPECT_EQ(status_of(drain({"n1", "n9"}).outcome()).code(), Code::kNotFound);
  EXPECT_EQ(run(program(1, 3)).outcome().code() == 0, false);
  EXPECT_EQ(run(program(3, 3)).outcome().code(), 0) << "n1 was left as it was";
}

TEST_F(AdminTest, AJobOfADrainedNodeMovesToTheOthers) {
  const uint64_t job = job_on("n2", 3);
  drain({"n2"});
  const wire::RequeueReply reply = requeue(of(job));
  ASSERT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  ASSERT_THAT(reply.nodes(), SizeIs(1));
  EXPECT_NE(reply.nodes(0), "n2");
  EXPECT_THAT(fleet_.pods("n2"), IsEmpty());
}

TEST_F(AdminTest, AJobThatHasNoOtherPlaceRunsOn_WithASet) {
  const uint64_t job = job_on("n2", 4);
  job_on("n1", 4);
  job_on("n3", 2);
  drain({"n2"});
  const wire::RequeueReply reply = requeue(of(job));
  EXPECT_EQ(status_of(reply.outcome()).code(), Code::kBusy);
  EXPECT_FALSE(reply.ended());
  EXPECT_GT(reply.crid(), 0U);
  EXPECT_THAT(reply.outcome().message(), HasSubstr("no other place"));
  EXPECT_THAT(fleet_.pods("n2"), SizeIs(1));
}

TEST_F(AdminTest, SetsBeyondThoseKeptAreRemoved_AndAsManyAsARequestSays) {
  options_.job.keep = 2;
  start_with_nodes();
  const uint64_t job = running_job();
  for (int i = 0; i < 4; ++i) ASSERT_EQ(checkpoint(job).outcome().code(), 0);
  EXPECT_THAT(committed(), SizeIs(2));
  wire::CheckpointRequest all;
  all.set_job(job);
  all.set_keep(0);
  answer<wire::CheckpointReply>(
      [&](auto respond) { service_->checkpoint(me(), all, std::move(respond)); });
  EXPECT_THAT(committed(), SizeIs(3));
  EXPECT_EQ(checkpoint(job, true).outcome().code(), 0);
  EXPECT_THAT(committed(), SizeIs(2));
}

TEST_F(AdminTest, AJobsOwnNumberOfSetsGoesBeforeTheCoordinators) {
  wire::RunRequest request = program(6, 3);
  request.set_keep(1);
  const uint64_t job = run(request).job();
  for (int i = 0; i < 3; ++i) ASSERT_EQ(checkpoint(job).outcome().code(), 0);
  EXPECT_THAT(committed(), SizeIs(1));
  ASSERT_EQ(requeue(of(job)).outcome().code(), 0);
  ASSERT_EQ(checkpoint(job).outcome().code(), 0);
  EXPECT_THAT(committed(), SizeIs(1)) << "also once it was restarted";
}

}  // namespace
}  // namespace fermata::coord
