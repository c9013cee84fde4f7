// Slurm's steps: offered by the agents of their nodes, begun when all have, or refused with a
// sentence.
#include <unistd.h>

#include <csignal>
#include <filesystem>

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
  /// What the first node was refused with, once that has come.
  wire::RefuseOrder refused() {
    wire::RefuseOrder found;
    EXPECT_TRUE(eventually([&] {
      const std::vector<wire::Order> sent = fleet_.sent("n1");
      const auto order = std::find_if(sent.begin(), sent.end(),
                                      [](const wire::Order& one) { return one.has_refuse(); });
      if (order != sent.end()) found = order->refuse();
      return order != sent.end();
    }));
    return found;
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
}

TEST_F(StepsTest, OneThatWasInterrupted_HadNotFinished) {
  offer(0, two_);
  expect_running(0);
  end(0, exited(0), "Slurm has sent signal 15");
  offer(1, two_, [](wire::StepOffer& offer) { offer.set_skip_done(true); });
  expect_running(1);
}

TEST_F(StepsTest, ASetOfAnotherUsers_IsRefused) {
  if (getuid() != 0) GTEST_SKIP() << "gives a file away";
  offer(0, two_);
  expect_running(0);
  const wire::CheckpointReply set = checkpoint(kJob);
  end(0, killed(SIGKILL), "Slurm has sent signal 9");
  const std::filesystem::path manifest =
      std::filesystem::path(sets()) / to_string(kStep) / std::to_string(set.crid()) / "set.json";
  ASSERT_EQ(chown(manifest.c_str(), 65534, 65534), 0);
  offer(1, two_);
  EXPECT_THAT(refused().text(), HasSubstr("is no file of user"));
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

}  // namespace
}  // namespace fermata::coord
