// Pods, nodes and the coordinator itself are lost.
#include <csignal>

#include "storage/manifest.h"
#include "tests/unit/coord/service_fixture.h"

namespace fermata::coord {
namespace {

class FaultsTest : public ServiceTest {
 protected:
  FaultsTest() { start_with_nodes(); }
};

TEST_F(FaultsTest, AJobThatLosesAPodIsEndedEverywhere) {
  const uint64_t job = running_job();
  const uint64_t crid = checkpoint(job).crid();
  fleet_.end_pod("n2", {{job, 0}, 1, 0}, killed(SIGSEGV));
  const wire::WaitReply ended = wait(job);
  EXPECT_EQ(ended.exit_status(), 128 + SIGSEGV);
  EXPECT_THAT(ended.sentence(), HasSubstr("pod 1 on n2 was killed by signal 11"));
  EXPECT_THAT(ended.sentence(),
              HasSubstr("`fermata restart " + std::to_string(job) +
                        ".0` continues it from checkpoint " + std::to_string(crid)));
  EXPECT_THAT(fleet_.orders_with("signal 15"), SizeIs(2));
  EXPECT_THAT(fleet_.pods(), IsEmpty());
  EXPECT_TRUE(eventually([&] { return used_slots() == 0; }));
}

TEST_F(FaultsTest, PodsThatDoNotHeedSigtermAreKilled) {
  fleet_.set_stubborn(true);
  const uint64_t job = running_job();
  fleet_.end_pod("n1", {{job, 0}, 0, 0}, -1, "its PID 1 was killed");
  const wire::WaitReply ended = wait(job);
  EXPECT_THAT(ended.sentence(), HasSubstr("its PID 1 was killed"));
  EXPECT_THAT(ended.sentence(), HasSubstr("it has no checkpoint"));
  EXPECT_THAT(fleet_.orders_with("destroy"), SizeIs(2));
  EXPECT_THAT(fleet_.pods(), IsEmpty());
}

TEST_F(FaultsTest, APodThatIsLostEndsASetAtOnce) {
  const uint64_t job = running_job();
  fleet_.set_silent([](const std::string& node, const wire::Order& order) {
    return node == "n1" && order.has_phase() &&
           order.phase().phase() == static_cast<uint32_t>(Phase::kWriteBack);
  });
  std::promise<wire::CheckpointReply> reply;
  wire::CheckpointRequest request;
  request.set_job(job);
  service_->checkpoint(me(), request, [&](auto got) { reply.set_value(std::move(got)); });
  ASSERT_TRUE(eventually([&] { return fleet_.orders_with("n1 phase write back").size() == 1; }));
  fleet_.end_pod("n3", {{job, 0}, 2, 0}, killed(SIGKILL));
  EXPECT_EQ(wait(job).exit_status(), 128 + SIGKILL);
  EXPECT_EQ(status_of(reply.get_future().get().outcome()).code(), Code::kGone);
  EXPECT_THAT(fleet_.orders_with("roll back"), SizeIs(3));
}

TEST_F(FaultsTest, AnAgentMayGoAndComeBack) {
  options_.job.node_grace = std::chrono::seconds(30);
  start_with_nodes();
  const uint64_t job = running_job();
  fleet_.lose("n2");
  EXPECT_EQ(status_of(checkpoint(job).outcome()).code(), Code::kGone);
  fleet_.attach("n2");
  EXPECT_EQ(checkpoint(job).outcome().code(), 0);
  EXPECT_THAT(fleet_.pods(), SizeIs(3));
}

TEST_F(FaultsTest, AnAgentLostInsideASetAbortsIt) {
  options_.job.node_grace = std::chrono::seconds(30);
  start_with_nodes();
  const uint64_t job = running_job();
  for (const Phase phase : kPhases) {
    fleet_.set_silent([&](const std::string& node, const wire::Order& order) {
      return node == "n2" && order.has_phase() &&
             order.phase().phase() == static_cast<uint32_t>(phase);
    });
    std::promise<wire::CheckpointReply> reply;
    wire::CheckpointRequest request;
    request.set_job(job);
    const std::string silent = "n2 phase " + std::string(phase_name(phase));
    const size_t before = fleet_.orders_with(silent).size();
    service_->checkpoint(me(), request, [&](auto got) { reply.set_value(std::move(got)); });
    ASSERT_TRUE(eventually([&] { return fleet_.orders_with(silent).size() > before; }));
    fleet_.lose("n2");
    EXPECT_EQ(status_of(reply.get_future().get().outcome()).code(), Code::kGone);
    fleet_.set_silent(nullptr);
    fleet_.attach("n2");
  }
  EXPECT_EQ(checkpoint(job).outcome().code(), 0);
}

TEST_F(FaultsTest, ANodeThatDoesNotComeBackTakesItsPodsWithIt) {
  const uint64_t job = running_job();
  fleet_.lose("n2");
  const wire::WaitReply ended = wait(job);
  EXPECT_THAT(ended.sentence(), HasSubstr("pod 1 is lost: node n2"));
  EXPECT_THAT(fleet_.pods(), ElementsAre(std::to_string(job) + ".0/1"));
  // It comes back after all: nobody waits for that pod any more.
  EXPECT_EQ(fleet_.attach("n2").unknown_size(), 0);
  EXPECT_TRUE(eventually([&] { return fleet_.pods().empty(); }));
}

// The pods that were to be killed had been counted without the one that came back.
TEST_F(FaultsTest, ANodeThatIsBackWhileItsJobIsEnded_LosesItsPod) {
  fleet_.set_stubborn(true);
  const uint64_t job = running_job();
  fleet_.set_silent([](const std::string& node, const wire::Order& order) {
    return node == "n1" && order.has_destroy();
  });
  fleet_.lose("n2");
  ASSERT_TRUE(eventually([&] { return fleet_.orders_with("n1 destroy").size() == 1; }));
  fleet_.attach("n2");
  EXPECT_TRUE(eventually([&] { return fleet_.pods("n2").empty(); }));
  fleet_.lose("n1");
  EXPECT_THAT(wait(job).sentence(), HasSubstr("pod 1 is lost: node n2"));
  fleet_.set_silent(nullptr);
  fleet_.attach("n1");
  EXPECT_TRUE(eventually([&] { return fleet_.pods().empty(); }));
}

// The answer to the launch was lost with the stream; the pod stands all the same.
TEST_F(FaultsTest, ANodeThatIsBackWithAPodOfALaunchThatFailed_LosesIt) {
  fleet_.set_silent([](const std::string& node, const wire::Order& order) {
    return (node == "n2" && order.has_launch()) || (node == "n1" && order.has_destroy());
  });
  std::promise<wire::RunReply> reply;
  service_->run(me(), program(6, 3), [&](auto got) { reply.set_value(std::move(got)); });
  ASSERT_TRUE(eventually([&] { return fleet_.pods().size() == 2; }));
  fleet_.lose("n2");
  ASSERT_TRUE(eventually([&] { return fleet_.orders_with("n1 destroy").size() == 1; }));
  fleet_.add_pod("n2", {{jobs()[0].job(), 0}, 1, 0});
  fleet_.attach("n2");
  EXPECT_TRUE(eventually([&] { return fleet_.pods("n2").empty(); }));
  fleet_.lose("n1");
  EXPECT_NE(reply.get_future().get().outcome().code(), 0);
}

TEST_F(FaultsTest, ANodeThatIsBackWithoutItsPodHasLostIt) {
  options_.job.node_grace = std::chrono::minutes(10);
  start_with_nodes();
  const uint64_t job = running_job();
  // The job's thread sleeps when it has answered this, and again, with a far deadline, after that.
  EXPECT_EQ(able(job).outcome().code(), 0);
  fleet_.lose("n2");
  EXPECT_EQ(status_of(able(job).outcome()).code(), Code::kGone);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  fleet_.lose_pods("n2");
  fleet_.attach("n2");
  EXPECT_THAT(wait(job).sentence(), HasSubstr("node n2 is back without it"));
}

TEST_F(FaultsTest, PodsOfAJobThatIsNotKnownRunOn) {
  const uint64_t job = running_job();
  stop();
  std::filesystem::remove_all(scratch_ / "state");
  start();
  EXPECT_EQ(fleet_.attach("n1").unknown_size(), 1);
  EXPECT_THAT(fleet_.pods("n1"), ElementsAre(std::to_string(job) + ".0/0"));
}

TEST_F(FaultsTest, ARestartedCoordinatorGoesOnWithItsJobs) {
  options_.job.node_grace = std::chrono::minutes(10);
  start_with_nodes();
  const uint64_t job = running_job();
  const uint64_t crid = checkpoint(job).crid();
  start();
  EXPECT_EQ(status_of(checkpoint(job).outcome()).code(), Code::kGone) << "no agent is back yet";
  for (const char* node : {"n1", "n2", "n3"}) fleet_.attach(node);
  EXPECT_EQ(used_slots(), 6U);
  EXPECT_EQ(jobs()[0].last_crid(), crid);
  EXPECT_GT(checkpoint(job).crid(), crid);
  EXPECT_GT(running_job(), job);
  for (uint32_t pod = 0; pod < 3; ++pod) {
    fleet_.end_pod("n" + std::to_string(pod + 1), {{job, 0}, pod, 0}, exited(0));
  }
  EXPECT_EQ(wait(job).exit_status(), 0);
  start();
  EXPECT_EQ(wait(job).exit_status(), 0) << "also an end that was long ago is known";
}

TEST_F(FaultsTest, AJobWhoseNodesNeverComeBackIsEnded) {
  const uint64_t job = running_job();
  start();
  fleet_.attach("n1");
  const wire::WaitReply ended = wait(job);
  EXPECT_NE(ended.exit_status(), 0);
  EXPECT_THAT(ended.sentence(), HasSubstr("is lost: node n"));
  EXPECT_THAT(fleet_.pods("n1"), IsEmpty());
}

// It said "pod 0 is lost", with status 137.
TEST_F(FaultsTest, WhyAJobEnds_IsKnownAfterACrash) {
  options_.job.node_grace = std::chrono::minutes(10);
  start_with_nodes();
  const uint64_t job = running_job();
  fleet_.set_stubborn(true);
  fleet_.set_silent(
      [](const std::string&, const wire::Order& order) { return order.has_destroy(); });
  fleet_.end_pod("n2", {{job, 0}, 1, 0}, killed(SIGSEGV));
  ASSERT_TRUE(eventually([&] { return fleet_.orders_with("destroy").size() == 2; }));
  fleet_.set_silent(nullptr);
  start();
  const wire::WaitReply ended = wait(job);
  EXPECT_EQ(ended.exit_status(), 128 + SIGSEGV);
  EXPECT_THAT(ended.sentence(), HasSubstr("pod 1 on n2 was killed by signal 11"));
  for (const char* node : {"n1", "n2", "n3"}) fleet_.attach(node);
  EXPECT_TRUE(eventually([&] { return fleet_.pods().empty(); }));
}

// The manifest stood, and the store had not been told of it.
TEST_F(FaultsTest, ASetThatWasCommittedAtACrash_CountsAfterIt) {
  options_.job.node_grace = std::chrono::minutes(10);
  start_with_nodes();
  const uint64_t job = running_job();
  for (const bool end_job : {false, true}) {
    SCOPED_TRACE(end_job);
    std::filesystem::copy(scratch_ / "state", scratch_ / "copy");
    const uint64_t crid = checkpoint(job, end_job).crid();
    stop();
    std::filesystem::remove_all(scratch_ / "state");
    std::filesystem::rename(scratch_ / "copy", scratch_ / "state");
    start_with_nodes();
    if (end_job) {
      const wire::WaitReply ended = wait(job);
      EXPECT_EQ(ended.last_crid(), crid);
      EXPECT_THAT(ended.sentence(), HasSubstr("was ended after checkpoint"));
    } else {
      EXPECT_TRUE(eventually([&] { return jobs()[0].last_crid() == crid; }));
    }
  }
}

TEST_F(FaultsTest, AJobThatWasBeingStartedIsNoJobAfterACrash) {
  fleet_.set_silent([](const std::string& node, const wire::Order& order) {
    return node == "n2" && order.has_launch();
  });
  service_->run(me(), program(6, 3), [](const wire::RunReply&) {});
  ASSERT_TRUE(eventually([&] { return fleet_.pods().size() == 2; }));
  // As kill -9 leaves it: what the store has, and pods that nobody was told to end.
  std::filesystem::copy(scratch_ / "state", scratch_ / "copy");
  const std::set<std::string> pods = fleet_.pods();
  fleet_.set_listener(nullptr);
  service_.reset();
  store_.reset();
  std::filesystem::remove_all(scratch_ / "state");
  std::filesystem::rename(scratch_ / "copy", scratch_ / "state");
  fleet_.set_silent(nullptr);
  start();
  for (const char* node : {"n1", "n2", "n3"}) fleet_.attach(node);
  EXPECT_TRUE(eventually([&] { return fleet_.pods().empty(); }));
  EXPECT_THAT(jobs(), IsEmpty());
}

TEST_F(FaultsTest, NoMorePodsWriteAtATimeThanMay) {
  options_.max_writers = 2;
  start_with_nodes();
  fleet_.set_write_time(std::chrono::milliseconds(20));
  const std::vector<uint64_t> jobs{running_job(), run(program(3, 3)).job(),
                                   run(program(3, 3)).job()};
  std::vector<std::future<wire::CheckpointReply>> replies;
  for (const uint64_t job : jobs) {
    replies.push_back(std::async(std::launch::async, [this, job] { return checkpoint(job); }));
  }
  for (auto& reply : replies) EXPECT_EQ(reply.get().outcome().code(), 0);
  EXPECT_EQ(fleet_.most_writers(), 2);
}

TEST_F(FaultsTest, AStoppedCoordinatorRollsItsSetsBack) {
  const uint64_t job = running_job();
  fleet_.set_silent([](const std::string&, const wire::Order& order) {
    return order.has_phase() && order.phase().phase() == static_cast<uint32_t>(Phase::kWriteBack);
  });
  std::promise<wire::CheckpointReply> reply;
  wire::CheckpointRequest request;
  request.set_job(job);
  service_->checkpoint(me(), request, [&](auto got) { reply.set_value(std::move(got)); });
  ASSERT_TRUE(eventually([&] { return fleet_.orders_with("write back").size() == 3; }));
  service_->stop();
  EXPECT_NE(reply.get_future().get().outcome().code(), 0);
  EXPECT_THAT(fleet_.orders_with("roll back"), SizeIs(3));
  EXPECT_THAT(fleet_.pods(), SizeIs(3)) << "the job runs on";
}

}  // namespace
}  // namespace fermata::coord
