// Requests of users and admins: the commands' client against the coordinator's server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>

#include "cli/control_client.h"
#include "coord/permissions.h"
#include "coord/server.h"
#include "tests/support/coordinator_double.h"
#include "tests/support/fake_authenticator.h"

namespace fermata::coord {
namespace {

using cli::ControlClient;
using testing::ElementsAre;
using testing::HasSubstr;

class RequestsTest : public testing::Test {
 protected:
  RequestsTest() {
    options_.listen = "127.0.0.1:0";
    options_.admins.slurm_uid = 64030;
    start();
  }
  void start() {
    server_ = std::make_unique<Server>(options_, checker_);
    const Status status = server_->start(inside_, inside_);
    ASSERT_TRUE(status) << status.message();
    options_.listen = "127.0.0.1:" + std::to_string(server_->port());
  }

  FakeAuthenticator checker_;
  FakeAuthenticator user_{1000};
  CoordinatorDouble inside_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
};

TEST_F(RequestsTest, EveryMethod_ReachesItsRequest_WithWhoAsks) {
  ControlClient client(options_.listen, user_);
  wire::RunRequest run;
  run.set_ranks(4);
  const auto started = client.run(run);
  ASSERT_TRUE(started) << started.error().message();
  EXPECT_EQ(started->job(), 7U);
  wire::JobRequest job;
  job.set_job(1);
  wire::SignalRequest signal;
  signal.set_job(2);
  wire::CheckpointRequest checkpoint;
  checkpoint.set_job(3);
  wire::RestartRequest restart;
  restart.set_job(4);
  EXPECT_TRUE(client.able(job));
  EXPECT_TRUE(client.signal(signal));
  EXPECT_TRUE(client.checkpoint(checkpoint));
  EXPECT_TRUE(client.restart(restart));
  EXPECT_TRUE(client.jobs());
  EXPECT_TRUE(client.nodes());
  wire::ControlRequest control;
  control.set_job(5);
  EXPECT_TRUE(client.control(control));
  wire::RequeueRequest requeue;
  requeue.set_job(6);
  EXPECT_TRUE(client.requeue(requeue));
  EXPECT_THAT(inside_.events(),
              ElementsAre("run 4 by 1000", "able 1 by 1000", "signal 2 by 1000",
                          "checkpoint 3 by 1000", "restart 4 by 1000", "jobs 0 by 1000",
                          "nodes 0 by 1000", "control 5 by 1000", "requeue 6 by 1000"));
}

TEST_F(RequestsTest, Drain_IsForRootAndSlurmUser) {
  const auto refused = ControlClient(options_.listen, user_).drain({});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kPermission);
  FakeAuthenticator root(0);
  FakeAuthenticator slurm(64030);
  EXPECT_TRUE(ControlClient(options_.listen, root).drain({}));
  EXPECT_TRUE(ControlClient(options_.listen, slurm).drain({}));
  EXPECT_THAT(inside_.events(), ElementsAre("drain 0 by 0 admin", "drain 0 by 64030 admin"));
}

TEST_F(RequestsTest, RootAndSlurmUser_AreAdmins) {
  FakeAuthenticator root(0);
  FakeAuthenticator slurm(64030);
  EXPECT_TRUE(ControlClient(options_.listen, root).jobs());
  EXPECT_TRUE(ControlClient(options_.listen, slurm).jobs());
  EXPECT_THAT(inside_.events(), ElementsAre("jobs 0 by 0 admin", "jobs 0 by 64030 admin"));
}

TEST_F(RequestsTest, Wait_IsAnsweredWhenTheJobEnds) {
  ControlClient client(options_.listen, user_);
  auto reply = std::async(std::launch::async, [&] {
    wire::JobRequest request;
    request.set_job(9);
    return client.wait(request);
  });
  ASSERT_TRUE(inside_.happened("wait 9 by 1000"));
  wire::WaitReply end;
  end.set_exit_status(3);
  inside_.answer_waiting(end);
  const auto result = reply.get();
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(result->exit_status(), 3);
}

TEST_F(RequestsTest, Wait_AsksAgain_WhenTheCoordinatorIsRestarted) {
  ControlClient client(options_.listen, user_);
  auto reply = std::async(std::launch::async, [&] {
    wire::JobRequest request;
    request.set_job(9);
    return client.wait(request);
  });
  ASSERT_TRUE(inside_.happened("wait 9 by 1000"));
  server_->stop();
  inside_.answer_waiting({});  // too late: nobody hears it, and nothing breaks
  start();
  ASSERT_TRUE(inside_.happened("wait 9 by 1000", 2));
  wire::WaitReply end;
  end.set_exit_status(5);
  inside_.answer_waiting(end);
  const auto result = reply.get();
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(result->exit_status(), 5);
}

TEST_F(RequestsTest, RequestThatIsDropped_IsAnsweredAsAnError) {
  ControlClient client(options_.listen, user_);
  auto reply = std::async(std::launch::async, [&] { return client.wait({}); });
  ASSERT_TRUE(inside_.happened("wait 0 by 1000"));
  inside_.forget_waiting();
  const auto result = reply.get();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kInternal);
}

TEST_F(RequestsTest, CancelledCall_EndsAtOnce_AndSoDoesEachAfterIt) {
  ControlClient client(options_.listen, user_);
  auto reply = std::async(std::launch::async, [&] { return client.wait({}); });
  ASSERT_TRUE(inside_.happened("wait 0 by 1000"));
  client.cancel();
  EXPECT_FALSE(reply.get());
  EXPECT_FALSE(client.jobs());
  inside_.forget_waiting();
}

TEST_F(RequestsTest, NobodyListening_IsSaidAtOnce_WithThePlace) {
  server_->stop();
  const auto nodes = ControlClient(options_.listen, user_).nodes();
  ASSERT_FALSE(nodes);
  EXPECT_EQ(nodes.error().code(), Code::kGone);
  EXPECT_THAT(nodes.error().message(), HasSubstr("no coordinator answers at " + options_.listen));
  EXPECT_THAT(nodes.error().message(), HasSubstr("fermata-coordd"));
}

TEST(Permissions, AgentsMethod_IsForRoot_AndAnUnknownMethodForNobody) {
  EXPECT_TRUE(may_call(wire::kAttach, {.uid = 0}));
  EXPECT_EQ(may_call(wire::kAttach, {.uid = 5}).code(), Code::kPermission);
  EXPECT_EQ(may_call(wire::kAttach, {.uid = 64030, .admin = true}).code(), Code::kPermission);
  EXPECT_TRUE(may_call(wire::kRun, {.uid = 5}));
  EXPECT_EQ(may_call("/fermata.wire.Coordinator/Other", {.uid = 0, .admin = true}).code(),
            Code::kPermission);
}

}  // namespace
}  // namespace fermata::coord
