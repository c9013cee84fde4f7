// What is refused, with a real munged: credentials that are missing, used, foreign, or made for
// something else. Nothing of them reaches the coordinator's inside; the log says who and what.
#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <vector>

#include "cli/control_client.h"
#include "coord/server.h"
#include "node-agent/coordinator_stream.h"
#include "proto/channel.h"
#include "proto/control.grpc.pb.h"
#include "proto/protocol.h"
#include "tests/support/agent_double.h"
#include "tests/support/coordinator_double.h"
#include "tests/support/munged.h"

namespace fermata::coord {
namespace {

using node_agent::AgentDouble;
using node_agent::CoordinatorStream;
using node_agent::LinkOptions;
using testing::HasSubstr;
using testing::Not;

class TrustTest : public testing::Test {
 protected:
  TrustTest() : munge_(munged_.socket()) {
    options_.listen = "127.0.0.1:0";
    options_.hello_within = std::chrono::milliseconds(500);
    server_ = std::make_unique<Server>(options_, munge_);
    const Status status = server_->start(inside_, inside_);
    EXPECT_TRUE(status) << status.message();
    address_ = "127.0.0.1:" + std::to_string(server_->port());
    channel_ = wire::open_channel(address_, std::chrono::seconds(10));
    testing::internal::CaptureStderr();
  }

  wire::Signed sign(std::string_view method, const google::protobuf::Message& request) {
    wire::Signed message;
    message.set_request(request.SerializeAsString());
    auto credential = munge_.make(method, message.request());
    EXPECT_TRUE(credential);
    message.set_credential(*credential);
    return message;
  }
  grpc::Status run(const wire::Signed& message) {
    grpc::ClientContext context;
    wire::RunReply reply;
    return wire::Coordinator::NewStub(channel_)->Run(&context, message, &reply);
  }
  /// What becomes of a stream that begins with this message (and with none).
  grpc::Status attach(const wire::FromAgent* first) {
    auto end = std::make_shared<std::promise<grpc::Status>>();
    const auto stream = std::make_shared<CoordinatorStream>(
        channel_, CoordinatorStream::Events{
                      .message = [](const wire::ToAgent&) {},
                      .ended = [end](const grpc::Status& status) { end->set_value(status); }});
    stream->begin(first == nullptr ? std::nullopt : std::optional(*first));
    auto future = end->get_future();
    if (future.wait_for(std::chrono::seconds(30)) != std::future_status::ready) {
      stream->cancel();
      future.wait();
      return {grpc::StatusCode::UNKNOWN, "it was not refused"};
    }
    return future.get();
  }
  void expect_refused(const grpc::Status& status, const std::string& sentence,
                      grpc::StatusCode code = grpc::StatusCode::PERMISSION_DENIED) {
    EXPECT_EQ(status.error_code(), code);
    EXPECT_THAT(status.error_message(), HasSubstr(sentence));
    EXPECT_TRUE(inside_.events().empty());
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, HasSubstr("refused"));
    EXPECT_THAT(log, HasSubstr("ipv4:127.0.0.1:"));
    EXPECT_THAT(log, HasSubstr(sentence));
    EXPECT_THAT(log, Not(HasSubstr("MUNGE:")));
    testing::internal::CaptureStderr();
  }

  ~TrustTest() override { testing::internal::GetCapturedStderr(); }

  Munged munged_;
  MungeAuthenticator munge_;
  CoordinatorDouble inside_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(TrustTest, AgentAndCommand_AreTaken_WithCredentialsOfTheirOwn) {
  LinkOptions options;
  options.coordinator = address_;
  AgentDouble agent("a", options, munge_);
  ASSERT_TRUE(agent.happened("attached"));
  cli::ControlClient client(address_, munge_);
  const auto nodes = client.nodes();
  ASSERT_TRUE(nodes) << nodes.error().message();
  EXPECT_TRUE(inside_.happened("nodes 0 by 0 admin"));
}

TEST_F(TrustTest, RequestWithoutACredential_IsRefused) { expect_refused(run({}), "no credential"); }

TEST_F(TrustTest, ReplayedRequest_IsRefused) {
  const wire::Signed message = sign(wire::kRun, wire::RunRequest());
  EXPECT_TRUE(run(message).ok());
  ASSERT_TRUE(inside_.happened("run 0 by 0 admin"));
  const grpc::Status again = run(message);
  EXPECT_EQ(again.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(again.error_message(), HasSubstr("uid 0 was used before"));
  EXPECT_EQ(inside_.events().size(), 1U);
}

TEST_F(TrustTest, CredentialOfAnotherRequest_IsRefused) {
  wire::Signed message = sign(wire::kRun, wire::RunRequest());
  wire::RunRequest other;
  other.set_ranks(1000);
  message.set_request(other.SerializeAsString());
  expect_refused(run(message), "of uid 0 was made for another request");
}

TEST_F(TrustTest, CredentialOfAnotherMethod_IsRefused) {
  expect_refused(run(sign(wire::kRestart, wire::RunRequest())), "made for another request");
}

TEST_F(TrustTest, CredentialOfAnotherCluster_IsRefused) {
  const Munged elsewhere;
  wire::Signed message;
  message.set_credential(*make_credential(elsewhere.socket(), wire::kRun, ""));
  expect_refused(run(message), "not of this cluster");
}

TEST_F(TrustTest, RequestThatIsNoMessage_IsRefused) {
  wire::Signed message;
  message.set_request("\xff\xff\xff");
  message.set_credential(*munge_.make(wire::kRun, message.request()));
  expect_refused(run(message), "uid 0 is no message", grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(TrustTest, MungedThatIsDown_RefusesAll_AndSaysSo) {
  const wire::Signed message = sign(wire::kRun, wire::RunRequest());
  munged_.stop();
  expect_refused(run(message), "munged does not answer at " + munged_.socket().string());
}

TEST_F(TrustTest, AgentWithAReplayedHello_IsRefused) {
  wire::Hello hello;
  hello.set_node("a");
  hello.set_version("0.0.9");
  wire::FromAgent first;
  *first.mutable_hello() = sign(wire::kAttach, hello);
  expect_refused(attach(&first), "version 0.0.9", grpc::StatusCode::UNIMPLEMENTED);
  expect_refused(attach(&first), "used before");
}

TEST_F(TrustTest, AgentThatSaysNoHello_IsRefused) {
  wire::FromAgent done;
  done.mutable_done()->set_order(1);
  expect_refused(attach(&done), "no credential");
  EXPECT_EQ(attach(nullptr).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(inside_.events().empty());
}

TEST_F(TrustTest, StreamsThatSayNoHello_AreFew) {
  options_.strangers = 3;
  options_.hello_within = std::chrono::seconds(300);
  server_ = std::make_unique<Server>(options_, munge_);
  ASSERT_TRUE(server_->start(inside_, inside_));
  channel_ =
      wire::open_channel("127.0.0.1:" + std::to_string(server_->port()), std::chrono::seconds(10));
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<grpc::Status> ended;
  std::vector<std::shared_ptr<CoordinatorStream>> streams;
  for (int i = 0; i < 5; ++i) {
    streams.push_back(std::make_shared<CoordinatorStream>(
        channel_, CoordinatorStream::Events{.message = [](const wire::ToAgent&) {},
                                            .ended =
                                                [&](const grpc::Status& status) {
                                                  const std::lock_guard lock(mutex);
                                                  ended.push_back(status);
                                                  changed.notify_all();
                                                }}));
    streams.back()->begin(std::nullopt);
  }
  const auto count_is = [&](size_t count) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(30), [&] { return ended.size() >= count; });
  };
  EXPECT_TRUE(count_is(2));
  {
    const std::lock_guard lock(mutex);
    EXPECT_EQ(ended.size(), 2U);
    for (const grpc::Status& status : ended) {
      EXPECT_THAT(status.error_message(), HasSubstr("too many streams"));
    }
  }
  for (const auto& stream : streams) stream->cancel();
  EXPECT_TRUE(count_is(5));
}

TEST_F(TrustTest, MungedThatHangs_HoldsUpNobodysOrders) {
  LinkOptions options;
  options.coordinator = address_;
  AgentDouble agent("a", options, munge_);
  ASSERT_TRUE(agent.happened("attached"));
  const wire::Signed message = sign(wire::kRun, wire::RunRequest());
  munged_.pause();
  std::vector<std::future<grpc::Status>> asked;
  asked.reserve(8);
  for (int i = 0; i < 8; ++i) {
    asked.push_back(std::async(std::launch::async, [&] { return run(message); }));
  }
  std::promise<bool> answered;
  server_->send("a", {},
                [&](const Result<wire::Done>& done) { answered.set_value(done.has_value()); });
  const auto order = agent.order();
  ASSERT_TRUE(order);
  EXPECT_TRUE(agent.done(order->id()));
  EXPECT_TRUE(answered.get_future().get());
  munged_.resume();
  for (auto& each : asked) each.get();
}

}  // namespace
}  // namespace fermata::coord
