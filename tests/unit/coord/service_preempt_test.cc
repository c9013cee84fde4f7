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
            .preemption_requeues = true,
            .steps = {0}};
    // Nodes that attach are in doubt for a while: it is not now that the grace begins.
    job_.preempted = system_clock::now() + minutes(1);
    slurm_.set(job_);
    // Of what comes in time nothing is to be late.
    options_.job.term_verdict = minutes(2);
    start_with_nodes();
  }
  ~PreemptTest() override {
    slurm_.set_slow(false);
    stop();
  }

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
      offer.set_interval_ms(interval_ms_);
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
  uint64_t last_crid(uint32_t step) {
    for (const wire::JobInfo& one : jobs()) {
      if (one.step() == step) return one.last_crid();
    }
    return 0;
  }
  /// What the step's thread had to do before is done.
  void a_round(uint32_t step) {
    wire::JobRequest request;
    request.set_job(kJob);
    request.set_step(step);
    answer<wire::AbleReply>([&](auto respond) { service_->able(me(), request, respond); });
  }
  size_t passed() { return fleet_.orders_with("pass term").size(); }
  size_t sets_taken() { return fleet_.orders_with("n1 phase commit").size(); }

  uint64_t interval_ms_ = 0;
  SlurmDouble slurm_;
  SlurmJob job_;
};

TEST_F(PreemptTest, TheLastSetComesFirst_ThenTheRequeue_ThenTheSignal) {
  std::vector<std::string> before_requeue;
  slurm_.set_at_requeue([&] { before_requeue = fleet_.orders(); });
  begin(0);
  term(0, 0);
  term(0, 1);
  EXPECT_TRUE(eventually([&] { return passed() == 2; }));
  EXPECT_EQ(sets_taken(), 1U);
  EXPECT_THAT(slurm_.requeued(), ElementsAre(kJob));
  const auto in_it = [&](const std::string& part) {
    return std::find_if(before_requeue.begin(), before_requeue.end(),
                        [&](const auto& order) { return order.find(part) != std::string::npos; });
  };
  EXPECT_LT(in_it("hold term"), in_it("phase prepare"));
  EXPECT_LT(in_it("phase commit"), before_requeue.end());
  EXPECT_EQ(in_it("pass term"), before_requeue.end());
}

TEST_F(PreemptTest, OneThatComesLater_IsPassedOn_WithoutAnotherSet) {
  begin(0);
  expect_sets(1, true);
  term(0, 1);
  EXPECT_TRUE(eventually([&] { return passed() == 2; }));
  EXPECT_EQ(sets_taken(), 1U);
}

TEST_F(PreemptTest, WhoIsNotPreempted_HasItAtOnce) {
  job_.preempted.reset();
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
  EXPECT_TRUE(eventually([&] { return last_crid(0) == 1; }));
  a_round(0);
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

TEST_F(PreemptTest, WhereNothingIsPreempted_SlurmIsNeverAskedOfAJob) {
  slurm_.set_preempts(false);
  begin(0);
  const size_t before = slurm_.asked();
  expect_sets(0);
  EXPECT_EQ(slurm_.asked(), before);
}

TEST_F(PreemptTest, SlurmIsAskedOnce_ForAllNodesAndStepsOfAJob) {
  job_.preempted.reset();
  slurm_.set(job_);
  begin(0);
  begin(1);
  const size_t before = slurm_.asked();
  for (const uint32_t step : {0U, 1U}) {
    term(step, 0);
    term(step, 1);
  }
  EXPECT_TRUE(eventually([&] { return passed() == 4; }));
  EXPECT_EQ(slurm_.asked(), before + 1);
}

TEST_F(PreemptTest, AnAnswerAfterTheHold_IsTooLate_ForASetAndForTheRequeue) {
  options_.job.term_verdict = std::chrono::milliseconds(200);
  start_with_nodes();
  begin(0);
  slurm_.set_slow(true);
  const size_t before = slurm_.asked();
  term(0, 0);
  // Of a question that has to wait for its turn for so long nothing is asked.
  EXPECT_TRUE(eventually([&] { return slurm_.asked() > before || passed() == 1; }));
  std::this_thread::sleep_for(options_.job.term_verdict * 2);
  slurm_.set_slow(false);
  EXPECT_TRUE(eventually([&] { return passed() == 1; }));
  a_round(0);
  EXPECT_EQ(sets_taken(), 0U);
  EXPECT_THAT(slurm_.requeued(), IsEmpty());
}

TEST_F(PreemptTest, WhenSlurmDoesNotAnswer_ItIsPassedOn) {
  begin(0);
  slurm_.set_broken({Code::kTimeout, "slurmctld does not answer"});
  expect_sets(0);
}

TEST_F(PreemptTest, WhoHasItAlready_IsNotInALastSet) {
  begin(0);
  fleet_.set_trouble([](const std::string&, const wire::Order& order) -> std::optional<Status> {
    if (!order.has_pass_term()) return std::nullopt;
    return Status(Code::kGone, "no SIGTERM is held back here");
  });
  expect_sets(0);
}

TEST_F(PreemptTest, AfterANodeWasLost_ARankMayHaveItAlready) {
  begin(0);
  job_.preempted = system_clock::now();
  slurm_.set(job_);
  fleet_.lose("n2");
  fleet_.attach("n2");
  expect_sets(0);
}

TEST_F(PreemptTest, ASetThatIsUnderWay_IsTheLastOne) {
  begin(0);
  fleet_.set_write_time(seconds(3));
  wire::CheckpointRequest request;
  request.set_job(kJob);
  std::promise<void> done;
  service_->checkpoint(me(), request, [&](const wire::CheckpointReply&) { done.set_value(); });
  EXPECT_TRUE(eventually([&] { return !fleet_.orders_with("n1 phase").empty(); }));
  expect_sets(1, true);
  done.get_future().wait();
}

TEST_F(PreemptTest, AStepWithoutASet_LetsTheOthersGo_WithoutARequeue) {
  job_.steps = {0, 1};
  slurm_.set(job_);
  fleet_.set_trouble([](const std::string&, const wire::Order& order) -> std::optional<Status> {
    if (!order.has_phase() || order.pod().step() == 0) return std::nullopt;
    return Status(Code::kCannotHold, "an object stands in the way");
  });
  begin(0);
  begin(1);
  term(1, 0);
  EXPECT_TRUE(eventually([&] { return passed() == 1; }));
  term(0, 0);
  EXPECT_TRUE(eventually([&] { return passed() == 2; }));
  EXPECT_EQ(sets_taken(), 1U);
  EXPECT_THAT(slurm_.requeued(), IsEmpty());
}

TEST_F(PreemptTest, AStepThatGetsNoSignal_IsNotWaitedForLong) {
  options_.job.term_verdict = seconds(1);
  start_with_nodes();
  begin(0);
  begin(1);
  term(0, 0);
  EXPECT_TRUE(eventually([&] { return passed() == 1; }));
  EXPECT_THAT(slurm_.requeued(), IsEmpty());
}

TEST_F(PreemptTest, AfterTheSignal_NoIntervalSetIsTaken_InThisGrace) {
  interval_ms_ = 20;
  job_.end = system_clock::now() + seconds(3);
  slurm_.set(job_);
  begin(0);
  EXPECT_TRUE(eventually([&] { return last_crid(0) > 0; }));
  job_.preemption_requeues = false;
  term(0, 0);
  EXPECT_TRUE(eventually([&] { return passed() == 1; }));
  a_round(0);
  // One more may have been under way. Then none, until the grace is over and it still runs.
  const size_t taken = fleet_.orders_with("n1 phase prepare").size();
  EXPECT_TRUE(eventually([&] { return fleet_.orders_with("n1 phase prepare").size() > taken; }));
  EXPECT_GE(system_clock::now(), *job_.end);
}

TEST_F(PreemptTest, OfAPodThatNobodyKnows_ItIsPassedOn) {
  term(0, 0);
  EXPECT_TRUE(eventually([&] { return passed() == 1; }));
}

}  // namespace
}  // namespace fermata::coord
