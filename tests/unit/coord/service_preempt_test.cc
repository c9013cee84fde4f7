// Steps of a job that Slurm preempts take a last set before their ranks get its SIGTERM.
#include <unistd.h>

#include "coord/wire.h"
#include "tests/unit/coord/service_fixture.h"
#include "tests/unit/coord/slurm_double.h"

namespace fermata::coord {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;
using std::chrono::system_clock;

constexpr uint64_t kJob = SlurmDouble::kJob;

class PreemptTest : public ServiceTest {
 protected:
  PreemptTest() {
    options_.slurm = &slurm_;
    job_ = {.running = true,
            .batch = true,
            .requeue = true,
            .start = system_clock::now() - seconds(1000),
            .end = system_clock::now() + minutes(10),
            .preempted = true,
            .preemption_requeues = true,
            .steps = {0}};
    slurm_.set(job_);
    start_with_nodes();
  }
  ~PreemptTest() override { stop(); }

  /// A step on n1 and n2 that runs.
  void begin(uint32_t step) {
    for (uint32_t node = 0; node < 2; ++node) {
      wire::StepOffer offer;
      offer.mutable_id()->set_job(kJob);
      offer.mutable_id()->set_step(step);
      offer.mutable_id()->set_pod(node);
      offer.set_owner_uid(getuid());
      offer.set_nodes(2);
      offer.set_ranks(2);
      offer.add_ranks_here(node);
      offer.set_checkpoint_dir(sets());
      offer.set_restart_dir(sets());
      offer.add_command("lmp");
      service_->step_offered(node == 0 ? "n1" : "n2", offer);
    }
    EXPECT_TRUE(eventually([&] {
      const std::vector<wire::JobInfo> all = jobs();
      return std::any_of(all.begin(), all.end(), [&](const wire::JobInfo& one) {
        return one.step() == step && one.state() == "running";
      });
    }));
  }
  void term(uint32_t step, uint32_t pod) {
    wire::TermHeld held;
    *held.mutable_id() = to_wire(PodId{{kJob, step}, pod, 0});
    service_->term_held(pod == 0 ? "n1" : "n2", held);
  }
  /// The first pod of the step is signalled: so many sets before it is passed on.
  void expect_sets(size_t sets, bool requeued = false) {
    term(0, 0);
    EXPECT_TRUE(eventually([&] { return passed() == 1; }));
    EXPECT_EQ(sets_taken(), sets);
    EXPECT_EQ(slurm_.requeued().size(), requeued ? 1U : 0U);
  }
  size_t passed() { return fleet_.orders_with("pass term").size(); }
  size_t sets_taken() { return fleet_.orders_with("n1 phase commit").size(); }

  SlurmDouble slurm_;
  SlurmJob job_;
};

TEST_F(PreemptTest, TheLastSetComesFirst_ThenTheRequeue_ThenTheSignal) {
  begin(0);
  term(0, 0);
  term(0, 1);
  EXPECT_TRUE(eventually([&] { return passed() == 2; }));
  EXPECT_EQ(sets_taken(), 1U);
  EXPECT_THAT(slurm_.requeued(), ElementsAre(kJob));
  const std::vector<std::string> all = fleet_.orders();
  const auto first = [&](const std::string& part) {
    return std::find_if(all.begin(), all.end(), [&](const std::string& order) {
      return order.find(part) != std::string::npos;
    });
  };
  EXPECT_LT(first("hold term"), first("phase prepare"));
  EXPECT_LT(first("phase commit"), first("pass term"));
}

TEST_F(PreemptTest, OneThatComesLater_IsPassedOn_WithoutAnotherSet) {
  begin(0);
  expect_sets(1, true);
  term(0, 1);
  EXPECT_TRUE(eventually([&] { return passed() == 2; }));
  EXPECT_EQ(sets_taken(), 1U);
}

TEST_F(PreemptTest, WhoIsNotPreempted_HasItAtOnce) {
  job_.preempted = false;
  slurm_.set(job_);
  begin(0);
  expect_sets(0);
}

TEST_F(PreemptTest, ACancelledJob_TakesNoSet) {
  job_.running = false;
  slurm_.set(job_);
  begin(0);
  expect_sets(0);
}

TEST_F(PreemptTest, WhatDoesNotFitInHalfOfTheGrace_IsNotTried) {
  fleet_.set_write_time(std::chrono::milliseconds(1000));
  begin(0);
  EXPECT_TRUE(wire::to_status(checkpoint(kJob).outcome()));
  job_.end = system_clock::now() + std::chrono::milliseconds(2500);
  slurm_.set(job_);
  expect_sets(1);
}

TEST_F(PreemptTest, NobodyKnowsHowLongASetTakes_AndTheGraceIsShort_NoneIsTried) {
  job_.end = system_clock::now() + seconds(15);
  slurm_.set(job_);
  begin(0);
  expect_sets(0);
}

TEST_F(PreemptTest, ASetThatFails_IsNoReasonToRequeue) {
  fleet_.set_trouble([](const std::string&, const wire::Order& order) -> std::optional<Status> {
    if (!order.has_phase()) return std::nullopt;
    return Status(Code::kCannotHold, "an object stands in the way");
  });
  begin(0);
  expect_sets(0);
}

TEST_F(PreemptTest, AllStepsHaveTheirSet_BeforeTheFirstIsSignalled) {
  job_.steps = {0, 1};
  slurm_.set(job_);
  begin(0);
  begin(1);
  term(0, 0);
  EXPECT_TRUE(eventually([&] { return sets_taken() == 1; }));
  EXPECT_EQ(passed(), 0U);
  EXPECT_THAT(slurm_.requeued(), IsEmpty());
  term(1, 0);
  EXPECT_TRUE(eventually([&] { return passed() == 2; }));
  EXPECT_EQ(sets_taken(), 2U);
  EXPECT_THAT(slurm_.requeued(), ElementsAre(kJob));
}

TEST_F(PreemptTest, AStepThatEndsMeanwhile_IsNotWaitedFor) {
  begin(0);
  begin(1);
  term(0, 0);
  EXPECT_TRUE(eventually([&] { return sets_taken() == 1; }));
  for (uint32_t pod = 0; pod < 2; ++pod) {
    fleet_.end_pod(pod == 0 ? "n1" : "n2", {{kJob, 1}, pod, 0}, exited(0));
  }
  EXPECT_TRUE(eventually([&] { return passed() == 1; }));
  EXPECT_THAT(slurm_.requeued(), ElementsAre(kJob));
}

TEST_F(PreemptTest, AStepInNoPods_KeepsTheRestOfItsGrace) {
  job_.steps = {0, 1};
  slurm_.set(job_);
  begin(0);
  expect_sets(1);
}

TEST_F(PreemptTest, WherePreemptionCancels_NothingIsRequeued) {
  job_.preemption_requeues = false;
  slurm_.set(job_);
  begin(0);
  expect_sets(1);
}

TEST_F(PreemptTest, WhereTheSiteDoesNotWantIt_NoSetIsTaken) {
  options_.job.preempt_sets = false;
  start_with_nodes();
  begin(0);
  expect_sets(0);
}

TEST_F(PreemptTest, OfAPodThatNobodyKnows_ItIsPassedOn) {
  term(0, 0);
  EXPECT_TRUE(eventually([&] { return passed() == 1; }));
}

}  // namespace
}  // namespace fermata::coord
