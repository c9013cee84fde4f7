// Steps that take a last set before their job's time limit, and Slurm is asked to requeue the job.
#include <unistd.h>

#include "tests/unit/coord/service_fixture.h"
#include "tests/unit/coord/slurm_double.h"

namespace fermata::coord {
namespace {

using std::chrono::seconds;
using std::chrono::system_clock;

constexpr uint64_t kJob = SlurmDouble::kJob;

class RequeueTest : public ServiceTest {
 protected:
  RequeueTest() {
    options_.slurm = &slurm_;
    // The last set is due a second from now: ten of margin, three of headroom.
    job_ = {.running = true,
            .batch = true,
            .requeue = true,
            .start = system_clock::now() - seconds(1000),
            .end = system_clock::now() + seconds(14)};
    slurm_.set(job_);
    start_with_nodes();
  }
  ~RequeueTest() override { stop(); }

  void offer(uint32_t step, uint64_t before_end_ms = 10'000, bool only_default = false) {
    wire::StepOffer offer;
    offer.mutable_id()->set_job(kJob);
    offer.mutable_id()->set_step(step);
    offer.set_owner_uid(getuid());
    offer.set_nodes(1);
    offer.set_ranks(1);
    offer.add_ranks_here(0);
    offer.set_checkpoint_dir(sets());
    offer.set_restart_dir(sets());
    offer.add_command("lmp");
    offer.set_before_end_ms(before_end_ms);
    offer.set_before_end_default(only_default);
    service_->step_offered("n1", offer);
  }
  std::string refused() {
    std::string text;
    EXPECT_TRUE(eventually([&] {
      for (const wire::Order& order : fleet_.sent("n1")) {
        if (order.has_refuse()) text = order.refuse().text();
      }
      return !text.empty();
    }));
    return text;
  }
  void expect_running(size_t steps) {
    EXPECT_TRUE(eventually([&] {
      const std::vector<wire::JobInfo> all = jobs();
      return all.size() == steps && std::all_of(all.begin(), all.end(), [](const auto& one) {
               return one.state() != "starting";
             });
    }));
  }

  SlurmDouble slurm_;
  SlurmJob job_;
};

TEST_F(RequeueTest, TheJobIsRequeued_OnceItsStepHasItsLastSet) {
  offer(0);
  expect_running(1);
  EXPECT_TRUE(eventually([&] { return slurm_.requeued().size() == 1; }));
  // One that measured how long they take, and the last.
  EXPECT_GE(fleet_.orders_with("phase commit").size(), 2U);
  EXPECT_GT(jobs().at(0).last_crid(), 1U);
}

TEST_F(RequeueTest, AllStepsHaveTheirs_BeforeTheJobIsRequeued) {
  offer(0);
  offer(1);
  offer(2, 0);  // asks for none
  expect_running(3);
  EXPECT_TRUE(eventually([&] { return !slurm_.requeued().empty(); }));
  for (const wire::JobInfo& step : jobs()) EXPECT_EQ(step.last_crid() > 0, step.step() != 2);
  EXPECT_THAT(slurm_.requeued(), ElementsAre(kJob));
}

TEST_F(RequeueTest, AStepThatEnds_IsNotWaitedFor) {
  fleet_.set_trouble([](const std::string&, const wire::Order& order) -> std::optional<Status> {
    if (!order.has_phase() || order.pod().step() != 1) return std::nullopt;
    return Status(Code::kCannotHold, "an object stands in the way");
  });
  offer(0);
  offer(1);
  expect_running(2);
  EXPECT_TRUE(eventually([&] {
    const std::vector<wire::JobInfo> all = jobs();
    return all.size() == 2 && all[0].last_crid() > 1 && !all[1].last_error().empty();
  }));
  EXPECT_THAT(slurm_.requeued(), IsEmpty());
  fleet_.end_pod("n1", {{kJob, 1}, 0, 0}, exited(0));
  EXPECT_TRUE(eventually([&] { return slurm_.requeued().size() == 1; }));
}

TEST_F(RequeueTest, AJobThatIsOver_IsNotRequeued_NorOneThatSlurmWillNot) {
  slurm_.answer({Code::kBusy, "Slurm: not now"});
  offer(0);
  expect_running(1);
  EXPECT_TRUE(eventually([&] { return jobs().at(0).last_error() == "Slurm: not now"; }));
  SlurmJob over = job_;
  over.running = false;
  slurm_.set(over);
  slurm_.answer({});
  EXPECT_THAT(slurm_.requeued(), IsEmpty());
}

TEST_F(RequeueTest, WhatCannotBeRequeued_IsRefused) {
  job_.requeue = false;
  slurm_.set(job_);
  offer(0);
  EXPECT_THAT(refused(), HasSubstr("--no-requeue"));
  EXPECT_THAT(jobs(), IsEmpty());
}

TEST_F(RequeueTest, OnlyBatchJobsAreRequeued) {
  job_.batch = false;
  slurm_.set(job_);
  offer(0);
  EXPECT_THAT(refused(), HasSubstr("--checkpoint-before-end: Slurm requeues batch jobs only"));
}

TEST_F(RequeueTest, WhereItIsTheSitesWish_OthersRunOn) {
  job_.batch = false;
  slurm_.set(job_);
  offer(0, 10'000, true);
  expect_running(1);
}

TEST_F(RequeueTest, ALimitThatIsTooShort_IsSaidToBe) {
  job_.start = system_clock::now();
  slurm_.set(job_);
  offer(0);
  expect_running(1);
  EXPECT_TRUE(eventually([&] {
    return jobs().at(0).last_error().find("is too short for --checkpoint-before-end") !=
           std::string::npos;
  }));
}

}  // namespace
}  // namespace fermata::coord
