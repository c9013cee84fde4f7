// Jobs on pretended nodes: from run to wait.
#include "coord/service.h"

#include <atomic>
#include <csignal>

#include "coord/wire.h"
#include "tests/unit/coord/service_fixture.h"

namespace fermata::coord {
namespace {

class RunTest : public ServiceTest {
 protected:
  RunTest() { start_with_nodes(); }
};

TEST_F(RunTest, RanksAreDealtInBlocks_AndTheHighestStatusIsTheJobs) {
  const wire::RunReply reply = run(program(5, 3));
  ASSERT_EQ(reply.outcome().code(), 0) << reply.outcome().message();
  EXPECT_THAT(reply.nodes(), ElementsAre("n1", "n2", "n3"));
  EXPECT_THAT(reply.outputs(),
              ElementsAre(scratch_ / ("fermata-" + std::to_string(reply.job()) + ".out")));
  const std::vector<wire::Order> sent = fleet_.sent("n2");
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_THAT(sent[0].launch().shape().pod_of_rank(), ElementsAre(0, 0, 1, 1, 2));
  EXPECT_THAT(sent[0].launch().shape().hosts(), ElementsAre("n1", "n2", "n3"));
  EXPECT_EQ(sent[0].launch().owner_uid(), getuid());
  EXPECT_EQ(used_slots(), 5U);
  ASSERT_THAT(jobs(), SizeIs(1));
  EXPECT_EQ(jobs()[0].state(), "running");

  const JobStep step{reply.job(), 0};
  fleet_.end_pod("n1", {step, 0, 0}, exited(0));
  fleet_.end_pod("n3", {step, 2, 0}, exited(3));
  fleet_.end_pod("n2", {step, 1, 0}, exited(1));
  const wire::WaitReply ended = wait(reply.job());
  EXPECT_EQ(ended.exit_status(), 3);
  EXPECT_EQ(ended.sentence(), "");
  EXPECT_THAT(fleet_.orders_with("signal"), IsEmpty());
  EXPECT_TRUE(eventually([&] { return jobs().empty(); }));
  EXPECT_EQ(used_slots(), 0U);
  EXPECT_EQ(wait(reply.job()).exit_status(), 3) << "asked late";
}

TEST_F(RunTest, LaunchThatFailsOnOneNodeLeavesNothingAnywhere) {
  fleet_.set_trouble([](const std::string& node, const wire::Order& order) {
    return node == "n2" && order.has_launch()
               ? std::optional(Status(Code::kNotFound, "lmp: no such program"))
               : std::nullopt;
  });
  const wire::RunReply reply = run(program(6, 3));
  EXPECT_EQ(status_of(reply.outcome()).code(), Code::kNotFound);
  EXPECT_EQ(reply.outcome().message(), "on n2: lmp: no such program");
  EXPECT_THAT(fleet_.pods(), IsEmpty());
  EXPECT_THAT(jobs(), IsEmpty());
  EXPECT_EQ(used_slots(), 0U);
}

TEST_F(RunTest, RequestsThatMakeNoSenseAreRefused) {
  EXPECT_EQ(status_of(run(program(0, 1)).outcome()).code(), Code::kUsage);
  EXPECT_EQ(status_of(run(program(2, 3)).outcome()).code(), Code::kUsage);
  EXPECT_EQ(status_of(run(program(13, 0)).outcome()).code(), Code::kBusy);
  wire::RunRequest request = program(1, 1);
  request.set_checkpoint_dir("sets");
  EXPECT_EQ(status_of(run(request).outcome()).code(), Code::kUsage);
  request = program(1, 1);
  request.set_external_tcp("maybe");
  EXPECT_EQ(status_of(run(request).outcome()).code(), Code::kUsage);
  request = program(1, 1);
  request.set_compress("rar");
  EXPECT_EQ(status_of(run(request).outcome()).code(), Code::kUsage);
  request = program(1, 0);
  request.add_nodes("n7");
  EXPECT_EQ(status_of(run(request).outcome()).code(), Code::kNotFound);
  request = program(1, 1);
  request.clear_command();
  EXPECT_EQ(status_of(run(request).outcome()).code(), Code::kUsage);
  EXPECT_THAT(fleet_.orders(), IsEmpty());
  EXPECT_EQ(used_slots(), 0U);
}

// Each is a thread, which may hang on a folder of its user's.
TEST_F(RunTest, StartsOfOneUserAtATimeAreLimited) {
  fleet_.set_silent(
      [](const std::string&, const wire::Order& order) { return order.has_launch(); });
  const Caller other{65534, 65534, false};
  const wire::RunRequest request = program(1, 1);
  size_t busy = 0;
  std::mutex mutex;
  std::atomic<size_t> answers = 0;
  const auto respond = [&](const wire::RunReply& reply) {
    const std::lock_guard lock(mutex);
    if (reply.outcome().code() == static_cast<int>(Code::kBusy)) ++busy;
    ++answers;
  };
  for (const char* node : {"n1", "n2", "n3"}) fleet_.attach(node, 1000);
  for (int i = 0; i < 70; ++i) service_->run(other, request, respond);
  EXPECT_TRUE(eventually([&] { return answers >= 6; }));
  EXPECT_TRUE(eventually([&] { return fleet_.orders_with("launch").size() == 64; }));
  {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(busy, 6U);
  }
  for (const char* node : {"n1", "n2", "n3"}) fleet_.lose(node);
  EXPECT_TRUE(eventually([&] { return answers == 70; }));
}

TEST_F(RunTest, SignalsGoToEveryPod) {
  const uint64_t job = running_job();
  wire::SignalRequest request;
  request.set_job(job);
  request.set_signal(SIGUSR1);
  fleet_.set_stubborn(true);
  const auto reply =
      answer<wire::SignalReply>([&](auto respond) { service_->signal(me(), request, respond); });
  EXPECT_TRUE(status_of(reply.outcome()));
  EXPECT_THAT(fleet_.orders_with("signal 10"), SizeIs(3));
}

TEST_F(RunTest, ASignalThatAPodCannotHave_IsTold_AndTheOthersHaveIt) {
  wire::SignalRequest request;
  request.set_job(running_job());
  request.set_signal(SIGUSR1);
  fleet_.set_stubborn(true);
  fleet_.lose("n2");
  fleet_.set_trouble(
      [](const std::string& node, const wire::Order& order) -> std::optional<Status> {
        if (node == "n3" && order.has_signal()) return Status(Code::kGone, "it was gone");
        return std::nullopt;
      });
  const auto send = [&] {
    return status_of(answer<wire::SignalReply>([&](auto respond) {
                       service_->signal(me(), request, respond);
                     }).outcome());
  };
  const Status sent = send();
  EXPECT_EQ(sent.code(), Code::kGone);
  EXPECT_THAT(sent.message(), HasSubstr("pod 1 on n2: "));
  EXPECT_THAT(sent.message(), HasSubstr("pod 2 on n3: it was gone"));
  EXPECT_THAT(sent.message(), Not(HasSubstr("pod 0")));
  EXPECT_THAT(fleet_.orders_with("n1 signal 10"), SizeIs(1));
  request.set_signal(SIGRTMAX + 1);
  EXPECT_EQ(send().code(), Code::kUsage);
  request.set_job(request.job() + 1);
  EXPECT_EQ(send().code(), Code::kNotFound);
}

TEST_F(RunTest, OthersMayNotTouchAJob_NorSeeItsCommand) {
  const uint64_t job = running_job();
  const Caller other{getuid() + 1, getgid(), false};
  wire::CheckpointRequest request;
  request.set_job(job);
  const auto reply = answer<wire::CheckpointReply>(
      [&](auto respond) { service_->checkpoint(other, request, respond); });
  EXPECT_EQ(status_of(reply.outcome()).code(), Code::kPermission);
  wire::SignalRequest signal;
  signal.set_job(job);
  signal.set_signal(SIGKILL);
  EXPECT_EQ(status_of(answer<wire::SignalReply>([&](auto respond) {
                        service_->signal(other, signal, respond);
                      }).outcome())
                .code(),
            Code::kPermission);
  EXPECT_THAT(fleet_.orders_with("signal"), IsEmpty());
  const auto seen = answer<wire::JobsReply>([&](auto respond) { service_->jobs(other, respond); });
  ASSERT_EQ(seen.jobs_size(), 1);
  EXPECT_EQ(seen.jobs(0).command_size(), 0);
  const Caller admin{getuid() + 1, getgid(), true};
  EXPECT_EQ(answer<wire::CheckpointReply>(
                [&](auto respond) { service_->checkpoint(admin, request, respond); })
                .outcome()
                .code(),
            0);
}

TEST_F(RunTest, WordsOfRanksGoFromPodToPod) {
  const JobStep step{running_job(), 0};
  for (uint32_t pod = 0; pod < 3; ++pod) {
    wire::ExchangeUp up;
    *up.mutable_pod() = to_wire(PodId{step, pod, 0});
    wire::Contribution& part = *up.mutable_contribution();
    part.set_key("fence");
    for (uint32_t i = 0; i < 3; ++i) part.add_pods(i);
    part.set_blob(std::to_string(pod));
    part.set_number(1);
    fleet_.exchange("n" + std::to_string(pod + 1), up);
  }
  const auto told = fleet_.told();
  ASSERT_THAT(told, SizeIs(3));
  EXPECT_EQ(told[0].second.gathered().blobs(), "012");

  // One that says what it may not: not its node's pod.
  wire::ExchangeUp abort;
  *abort.mutable_pod() = to_wire(PodId{step, 0, 0});
  abort.mutable_abort()->set_status(42);
  fleet_.exchange("n2", abort);
  EXPECT_THAT(jobs(), SizeIs(1));
  fleet_.exchange("n1", abort);
  EXPECT_EQ(wait(step.job).exit_status(), 42);
}

}  // namespace
}  // namespace fermata::coord
