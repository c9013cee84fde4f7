// Slurm's steps: offered by the agents of their nodes, begun when all have, or refused with a
// sentence.
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "coord/wire.h"
#include "tests/unit/coord/service_fixture.h"

namespace fermata::coord {
namespace {

constexpr uint64_t kJob = 70;
constexpr JobStep kStep{kJob, 0};

class StepsTest : public ServiceTest {
 protected:
  StepsTest() { start_with_nodes(); }

  /// The tasks of a step: by node, which ranks.
  using Tasks = std::vector<std::vector<uint32_t>>;

  wire::StepOffer part(uint32_t start, const Tasks& tasks, uint32_t node) const {
    wire::StepOffer offer;
    offer.mutable_id()->set_job(kStep.job);
    offer.mutable_id()->set_step(kStep.step);
    offer.mutable_id()->set_start(start);
    offer.mutable_id()->set_pod(node);
    offer.set_owner_uid(getuid());
    offer.set_nodes(static_cast<uint32_t>(tasks.size()));
    for (const auto& ranks : tasks) {
      offer.set_ranks(offer.ranks() + static_cast<uint32_t>(ranks.size()));
    }
    for (const uint32_t rank : tasks[node]) offer.add_ranks_here(rank);
    offer.set_checkpoint_dir(sets());
    offer.set_restart_dir(sets());
    offer.add_command("lmp");
    return offer;
  }
  /// All nodes of the step offer it; `change` may alter what they say.
  void offer(uint32_t start, const Tasks& tasks,
             const std::function<void(wire::StepOffer&)>& change = nullptr) {
    for (uint32_t node = 0; node < tasks.size(); ++node) {
      wire::StepOffer one = part(start, tasks, node);
      if (change) change(one);
      service_->step_offered("n" + std::to_string(node + 1), one);
    }
  }
  std::vector<wire::RefuseOrder> refusals(const std::string& node) {
    std::vector<wire::RefuseOrder> found;
    for (const wire::Order& order : fleet_.sent(node)) {
      if (order.has_refuse()) found.push_back(order.refuse());
    }
    return found;
  }
  /// What a node was refused with at last, once that has come for the `times`th time.
  wire::RefuseOrder refused(const std::string& node = "n1", size_t times = 1) {
    EXPECT_TRUE(eventually([&] { return refusals(node).size() >= times; }));
    const std::vector<wire::RefuseOrder> found = refusals(node);
    return found.empty() ? wire::RefuseOrder() : found.back();
  }
  void expect_running(uint32_t start) {
    EXPECT_TRUE(eventually([&] {
      const std::vector<wire::JobInfo> all = jobs();
      return all.size() == 1 && all[0].start() == start && all[0].state() == "running";
    }));
  }
  void end(uint32_t start, int wait_status, const std::string& reason = "") {
    fleet_.end_pod("n1", {kStep, 0, start}, wait_status, reason);
    fleet_.end_pod("n2", {kStep, 1, start}, wait_status, reason);
    EXPECT_TRUE(eventually([&] { return jobs().empty(); }));
  }

  const Tasks two_{{0, 1}, {2, 3}};
};

TEST_F(StepsTest, AStepBegins_WhenAllOfItsNodesHaveOfferedIt) {
  service_->step_offered("n1", part(0, two_, 0));
  EXPECT_THAT(jobs(), IsEmpty());
  service_->step_offered("n1", part(0, two_, 0));
  EXPECT_THAT(jobs(), IsEmpty());
  service_->step_offered("n2", part(0, two_, 1));
  expect_running(0);
  EXPECT_THAT(fleet_.pods(), UnorderedElementsAre("70.0/0", "70.0/1"));
}

TEST_F(StepsTest, AStepOfWhichATaskHasLeft_IsRefusedAtOnce_OnTheOtherNodes) {
  wire::StepOffer gone = part(0, two_, 1);
  gone.set_withdrawn(true);
  service_->step_offered("n1", part(0, two_, 0));
  service_->step_offered("n2", gone);
  EXPECT_THAT(refused().text(), HasSubstr("one of its tasks on n2 has ended"));
  // And whatever the order.
  gone = part(1, two_, 1);
  gone.set_withdrawn(true);
  service_->step_offered("n2", gone);
  service_->step_offered("n1", part(1, two_, 0));
  EXPECT_THAT(refused("n1", 2).text(), HasSubstr("one of its tasks on n2 has ended"));
  EXPECT_THAT(jobs(), IsEmpty());
}

TEST_F(StepsTest, ARequeuedStep_GoesOnFromItsLastSet) {
  offer(0, two_);
  expect_running(0);
  EXPECT_EQ(checkpoint(kJob).outcome().code(), 0);
  end(0, killed(SIGKILL), "Slurm has sent signal 9");
  offer(1, two_);
  expect_running(1);
  EXPECT_THAT(fleet_.orders_with("restore"), SizeIs(2));
}

TEST_F(StepsTest, ARequeuedStepThatHadFinished_RunsAgain_OrReturnsItsStatus) {
  offer(0, two_);
  expect_running(0);
  end(0, exited(3));
  offer(1, two_);
  expect_running(1);
  EXPECT_THAT(fleet_.orders_with("restore"), IsEmpty());
  end(1, exited(3));
  offer(2, two_, [](wire::StepOffer& offer) { offer.set_skip_done(true); });
  const wire::RefuseOrder refusal = refused();
  EXPECT_EQ(refusal.exit_status(), 3);
  EXPECT_EQ(refusal.text(), "");
  EXPECT_THAT(jobs(), IsEmpty());
  // The order was lost with the stream of the node.
  service_->step_offered("n2", part(2, two_, 1));
  EXPECT_EQ(refused("n2", 2).exit_status(), 3);
  EXPECT_THAT(refusals("n1"), SizeIs(1));
}

TEST_F(StepsTest, OneThatWasInterrupted_HadNotFinished) {
  offer(0, two_);
  expect_running(0);
  end(0, exited(0), "Slurm has sent signal 15");
  offer(1, two_, [](wire::StepOffer& offer) { offer.set_skip_done(true); });
  expect_running(1);
}

TEST_F(StepsTest, ASetOfAnotherUsers_IsRefused) {
  offer(0, two_);
  expect_running(0);
  const wire::CheckpointReply set = checkpoint(kJob);
  end(0, killed(SIGKILL), "Slurm has sent signal 9");
  const std::filesystem::path manifest =
      std::filesystem::path(sets()) / to_string(kStep) / std::to_string(set.crid()) / "set.json";
  ASSERT_EQ(chown(manifest.c_str(), 65534, 65534), 0);
  offer(1, two_);
  EXPECT_THAT(refused().text(), HasSubstr("belongs to user"));
  EXPECT_THAT(jobs(), IsEmpty());
  EXPECT_THAT(fleet_.orders_with("restore"), IsEmpty());
}

TEST_F(StepsTest, RanksOfAPodOnTwoNodes_AreRefusedWithWhatToDo) {
  offer(0, two_);
  expect_running(0);
  EXPECT_EQ(checkpoint(kJob).outcome().code(), 0);
  end(0, killed(SIGKILL), "Slurm has sent signal 9");
  offer(1, {{0, 2}, {1, 3}});
  const std::string text = refused().text();
  EXPECT_THAT(text, HasSubstr("ranks 0-1 on one node and ranks 2-3 on one node"));
  EXPECT_THAT(text, HasSubstr("--ntasks-per-node=2 --distribution=block"));
  EXPECT_THAT(jobs(), IsEmpty());
}

TEST_F(StepsTest, PodsOfTwoNodes_MayGoOnInOne) {
  offer(0, two_);
  expect_running(0);
  EXPECT_EQ(checkpoint(kJob).outcome().code(), 0);
  end(0, killed(SIGKILL), "Slurm has sent signal 9");
  offer(1, {{0, 1, 2, 3}});
  expect_running(1);
  EXPECT_THAT(fleet_.pods("n1"), SizeIs(2));
}

TEST_F(StepsTest, AnotherNumberOfTasks_IsRefused) {
  offer(0, two_);
  expect_running(0);
  EXPECT_EQ(checkpoint(kJob).outcome().code(), 0);
  end(0, killed(SIGKILL), "Slurm has sent signal 9");
  offer(1, {{0, 1}, {2}});
  EXPECT_THAT(refused().text(), HasSubstr("start it with -n 4"));
}

TEST_F(StepsTest, AStepOfWhichANodeDoesNotCome_IsRefused) {
  options_.offers = std::chrono::milliseconds(100);
  start_with_nodes();
  service_->step_offered("n1", part(0, two_, 0));
  const std::string text = refused().text();
  EXPECT_THAT(text, HasSubstr("the tasks of step 70.0 on n1 wait"));
  EXPECT_THAT(text, HasSubstr("with the numbers 1 (SLURM_NODEID)"));
  service_->step_offered("n2", part(0, two_, 1));
  EXPECT_EQ(refused("n2").text(), text);
  EXPECT_THAT(jobs(), IsEmpty());
}

TEST_F(StepsTest, WhenOnePodDoesNotBegin_EveryNodeHearsWhy_AlsoOneThatOffersAgain) {
  fleet_.set_trouble([](const std::string& node, const wire::Order& order) {
    return node == "n2" && order.has_launch()
               ? std::optional(Status{Code::kInternal, "no room for another pod"})
               : std::nullopt;
  });
  offer(0, two_);
  EXPECT_THAT(refused("n1").text(), HasSubstr("no room for another pod"));
  const wire::RefuseOrder told = refused("n2");
  EXPECT_THAT(told.text(), HasSubstr("no room for another pod"));
  EXPECT_EQ(told.exit_status(), 1);
  service_->step_offered("n2", part(0, two_, 1));
  EXPECT_EQ(refused("n2", 2).text(), told.text());
}

TEST_F(StepsTest, OneThatWasBeingBegunWhenTheCoordinatorDied_IsRefused) {
  stop();
  store_ = *Store::open(scratch_ / "state");
  stored::Job record;
  record.set_job(kStep.job);
  record.set_slurm(true);
  record.set_owner_uid(getuid());
  ASSERT_TRUE(store_->put(record));
  start_with_nodes();
  service_->step_offered("n2", part(0, two_, 1));
  const wire::RefuseOrder refusal = refused("n2");
  EXPECT_THAT(refusal.text(), HasSubstr("was ended while it was starting it"));
  EXPECT_EQ(refusal.exit_status(), 1);
}

TEST_F(StepsTest, ACoordinatorThatWaitsForAnEarlierStart_CanBeStopped) {
  offer(0, two_);
  expect_running(0);
  fleet_.set_silent([](const std::string&, const wire::Order& order) {
    return order.has_signal() || order.has_destroy();
  });
  offer(1, two_);
  EXPECT_TRUE(eventually([&] { return !fleet_.orders_with("destroy").empty(); }));
  const auto begin = std::chrono::steady_clock::now();
  stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  // The next one is offered it.
  EXPECT_THAT(refusals("n1"), IsEmpty());
}

TEST_F(StepsTest, WhatAPodReturns_EndsNoOtherPod) {
  offer(0, two_);
  expect_running(0);
  wire::ExchangeUp fence;
  *fence.mutable_pod() = to_wire(PodId{kStep, 0, 0});
  fence.mutable_contribution()->set_key("fence");
  for (uint32_t pod = 0; pod < 2; ++pod) fence.mutable_contribution()->add_pods(pod);
  fleet_.exchange("n1", fence);
  fleet_.end_pod("n1", {kStep, 0, 0}, exited(3));
  // Answered by the job's thread, which would have ended the other pod first.
  EXPECT_NE(checkpoint(kJob).outcome().code(), 0);
  EXPECT_THAT(fleet_.orders_with("signal"), IsEmpty());
  fleet_.end_pod("n2", {kStep, 1, 0}, killed(SIGSEGV));
  const wire::WaitReply reply = wait(kJob);
  EXPECT_EQ(reply.exit_status(), 128 + SIGSEGV);
  EXPECT_EQ(reply.sentence(), "");
}

TEST_F(StepsTest, OneWithARankThatASignalKilled_HadNotFinished) {
  offer(0, two_);
  expect_running(0);
  EXPECT_EQ(checkpoint(kJob).outcome().code(), 0);
  end(0, killed(SIGKILL));
  offer(1, two_, [](wire::StepOffer& offer) { offer.set_skip_done(true); });
  expect_running(1);
  EXPECT_THAT(fleet_.orders_with("restore"), SizeIs(2));
}

TEST_F(StepsTest, OneThatHadFinished_BeginsAgainFromTheSetItWasTold) {
  offer(0, two_);
  expect_running(0);
  const wire::CheckpointReply set = checkpoint(kJob);
  end(0, killed(SIGKILL), "Slurm has sent signal 9");
  const auto from_set = [&](wire::StepOffer& offer) {
    offer.set_restart(std::to_string(set.crid()));
  };
  offer(1, two_, from_set);
  expect_running(1);
  end(1, exited(0));
  offer(2, two_, from_set);
  expect_running(2);
  EXPECT_THAT(fleet_.orders_with("restore"), SizeIs(4));
}

TEST_F(StepsTest, SetsOfARunThatHadFinished_AreNotGoneOnFrom) {
  offer(0, two_);
  expect_running(0);
  EXPECT_EQ(checkpoint(kJob).outcome().code(), 0);
  end(0, exited(0));
  offer(1, two_);
  expect_running(1);
  end(1, killed(SIGKILL), "Slurm has sent signal 9");
  offer(2, two_);
  expect_running(2);
  EXPECT_THAT(fleet_.orders_with("restore"), IsEmpty());
  // Its own are.
  EXPECT_EQ(checkpoint(kJob).outcome().code(), 0);
  end(2, killed(SIGKILL), "Slurm has sent signal 9");
  offer(3, two_);
  expect_running(3);
  EXPECT_THAT(fleet_.orders_with("restore"), SizeIs(2));
}

TEST_F(StepsTest, OnceSlurmHasOfferedAStep_ItsNumbersAreItsOwn) {
  const uint64_t before = running_job();
  EXPECT_LE(before, kLastOfSlurm);
  EXPECT_EQ(checkpoint(before, true).outcome().code(), 0);
  EXPECT_TRUE(eventually([&] { return jobs().empty(); }));
  stop();
  std::filesystem::remove_all(scratch_ / "state");
  start_with_nodes();
  offer(0, two_);
  expect_running(0);
  EXPECT_GT(run(program(1, 1)).job(), kLastOfSlurm);
  wire::RestartRequest request;
  request.set_job(before);
  request.set_checkpoint_dir(sets());
  request.set_working_directory(scratch_.path());
  const Status status = status_of(restart(request).outcome());
  EXPECT_EQ(status.code(), Code::kUsage);
  EXPECT_THAT(status.message(), HasSubstr("`srun --restart=latest --restart-dir="));
}

}  // namespace
}  // namespace fermata::coord
