// The coordinator's server and the agents' link, against each other.
#include "coord/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <thread>

#include "tests/support/agent_double.h"
#include "tests/support/coordinator_double.h"
#include "tests/support/fake_authenticator.h"
#include "tests/support/relay.h"

namespace fermata::coord {
namespace {

using node_agent::AgentDouble;
using node_agent::LinkOptions;
using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::chrono::seconds kPatience{30};

class ServerTest : public testing::Test {
 protected:
  ServerTest() { options_.listen = "127.0.0.1:0"; }

  void start() {
    server_ = std::make_unique<Server>(options_, authenticator_);
    const Status status = server_->start(inside_, inside_);
    ASSERT_TRUE(status) << status.message();
    options_.listen = "127.0.0.1:" + std::to_string(server_->port());
  }
  LinkOptions link_options() const {
    LinkOptions options;
    options.coordinator = options_.listen;
    options.first_pause = milliseconds(10);
    options.longest_pause = milliseconds(50);
    return options;
  }
  std::unique_ptr<AgentDouble> agent(const std::string& node) {
    return std::make_unique<AgentDouble>(node, link_options(), agents_authenticator_);
  }
  std::future<Result<wire::Done>> send(const std::string& node, uint64_t job) {
    auto promise = std::make_shared<std::promise<Result<wire::Done>>>();
    wire::Order order;
    order.mutable_pod()->set_job(job);
    auto future = promise->get_future();
    server_->send(node, order,
                  [promise](Result<wire::Done> done) { promise->set_value(std::move(done)); });
    return future;
  }
  static Result<wire::Done> answer(std::future<Result<wire::Done>>& future) {
    if (future.wait_for(kPatience) != std::future_status::ready) {
      return failure(Code::kTimeout, "the test waits no longer");
    }
    return future.get();
  }

  FakeAuthenticator authenticator_;
  FakeAuthenticator agents_authenticator_;
  CoordinatorDouble inside_;
  ServerOptions options_;
  std::unique_ptr<Server> server_;
};

TEST_F(ServerTest, Orders_ReachTheirAgent_AndAnswersComeBack) {
  start();
  const auto a = agent("a");
  const auto b = agent("b");
  ASSERT_TRUE(a->happened("attached"));
  ASSERT_TRUE(b->happened("attached"));
  EXPECT_TRUE(server_->attached("a"));
  auto first = send("a", 1);
  auto second = send("b", 2);
  const auto at_a = a->order();
  const auto at_b = b->order();
  ASSERT_TRUE(at_a && at_b);
  EXPECT_EQ(at_a->pod().job(), 1U);
  EXPECT_EQ(at_b->pod().job(), 2U);
  EXPECT_TRUE(b->done(at_b->id(), "of b"));
  EXPECT_TRUE(a->done(at_a->id(), "of a"));
  EXPECT_EQ(answer(first)->notes(0), "of a");
  EXPECT_EQ(answer(second)->notes(0), "of b");
  EXPECT_FALSE(a->done(at_a->id())) << "an order is answered once";
}

TEST_F(ServerTest, Orders_ToOneAgent_ArriveInTheirOrder) {
  start();
  const auto a = agent("a");
  ASSERT_TRUE(a->happened("attached"));
  std::vector<std::future<Result<wire::Done>>> answers;
  for (uint64_t i = 0; i < 2000; ++i) answers.push_back(send("a", i));
  for (uint64_t i = 0; i < 2000; ++i) {
    const auto order = a->order();
    ASSERT_TRUE(order);
    ASSERT_EQ(order->pod().job(), i);
    ASSERT_TRUE(a->done(order->id()));
  }
  for (auto& each : answers) ASSERT_TRUE(answer(each));
}

TEST_F(ServerTest, OrderGivenWhileTheAgentAttaches_FollowsItsWelcome) {
  std::promise<Result<wire::Done>> done;
  inside_.on_attached = [&](const wire::Hello& hello) {
    wire::Order order;
    order.mutable_pod()->set_job(5);
    server_->send(hello.node(), order,
                  [&](Result<wire::Done> answer) { done.set_value(std::move(answer)); });
    return Status::ok();
  };
  start();
  const auto a = agent("a");
  const auto order = a->order();
  ASSERT_TRUE(order);
  EXPECT_EQ(a->count("attached"), 1);
  EXPECT_TRUE(a->done(order->id()));
  auto future = done.get_future();
  EXPECT_TRUE(answer(future));
}

TEST_F(ServerTest, Events_ReachTheListener_InTheirOrder) {
  start();
  const auto a = agent("a");
  ASSERT_TRUE(a->happened("attached"));
  std::vector<std::string> expected{"attached a"};
  for (uint32_t i = 0; i < 500; ++i) {
    wire::FromAgent message;
    if (i % 2 == 0) {
      message.mutable_exchange()->mutable_pod()->set_pod(i);
      expected.push_back("exchange a " + std::to_string(i));
    } else {
      message.mutable_ended()->mutable_id()->set_job(i);
      expected.push_back("ended a " + std::to_string(i));
    }
    ASSERT_TRUE(a->link().send(std::move(message)));
  }
  ASSERT_TRUE(inside_.happened(expected.back()));
  EXPECT_EQ(inside_.events(), expected);
}

TEST_F(ServerTest, Tell_ReachesTheAgent_AndIsDroppedWhereThereIsNone) {
  start();
  const auto a = agent("a");
  ASSERT_TRUE(a->happened("attached"));
  wire::ExchangeDown message;
  message.mutable_pod()->set_pod(3);
  server_->tell("b", message);
  server_->tell("a", message);
  const auto got = a->exchange();
  ASSERT_TRUE(got);
  EXPECT_EQ(got->pod().pod(), 3U);
}

TEST_F(ServerTest, OrderToAnAbsentAgent_IsGone_ButNotFromWithinSend) {
  start();
  std::mutex held;
  std::promise<Result<wire::Done>> done;
  {
    const std::lock_guard lock(held);
    server_->send("nowhere", {}, [&](Result<wire::Done> answer) {
      const std::lock_guard inner(held);
      done.set_value(std::move(answer));
    });
  }
  auto future = done.get_future();
  const auto result = answer(future);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kGone);
  EXPECT_THAT(result.error().message(), HasSubstr("nowhere"));
}

TEST_F(ServerTest, AgentLost_EndsItsOpenOrders_AndIsTold) {
  start();
  auto a = agent("a");
  ASSERT_TRUE(a->happened("attached"));
  auto open = send("a", 1);
  ASSERT_TRUE(a->order());
  a.reset();
  const auto result = answer(open);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kGone);
  ASSERT_TRUE(inside_.happened("lost a"));
  EXPECT_FALSE(server_->attached("a"));
  EXPECT_THAT(inside_.events(), ElementsAre("attached a", "lost a"));
}

TEST_F(ServerTest, SecondAgentOfANode_TakesThePlaceOfTheFirst) {
  start();
  LinkOptions slow = link_options();
  slow.first_pause = slow.longest_pause = std::chrono::hours(1);
  AgentDouble first("a", slow, agents_authenticator_);
  ASSERT_TRUE(first.happened("attached"));
  auto open = send("a", 1);
  ASSERT_TRUE(first.order());
  AgentDouble second("a", slow, agents_authenticator_);
  ASSERT_TRUE(second.happened("attached"));
  EXPECT_EQ(answer(open).error().code(), Code::kGone);
  ASSERT_TRUE(first.happened("lost"));
  EXPECT_EQ(first.why_lost().code(), Code::kConflict);
  EXPECT_THAT(inside_.events(), ElementsAre("attached a", "lost a", "attached a"));
  auto again = send("a", 2);
  const auto order = second.order();
  ASSERT_TRUE(order);
  EXPECT_TRUE(second.done(order->id()));
  EXPECT_TRUE(answer(again));
}

TEST_F(ServerTest, AgentThatTheListenerRefuses_IsNotThere) {
  inside_.on_attached = [](const wire::Hello&) { return Status(Code::kBusy, "not now"); };
  start();
  const auto a = agent("a");
  ASSERT_TRUE(a->happened("hello", 3)) << "it tries again";
  EXPECT_EQ(a->count("attached"), 0);
  EXPECT_FALSE(server_->attached("a"));
  EXPECT_TRUE(inside_.events().empty());
}

TEST_F(ServerTest, AgentOfAnotherVersion_IsRefused_NamingBoth) {
  options_.version = "9.9.9";
  start();
  testing::internal::CaptureStderr();
  {
    const auto a = agent("a");
    ASSERT_TRUE(a->happened("hello", 4));
  }
  server_->stop();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(inside_.events().empty());
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 2) << "once on either side:\n" << log;
  const std::string sentence =
      "the agent on a is of version " FERMATA_VERSION ", this coordinator of version 9.9.9";
  EXPECT_THAT(log, HasSubstr("refused an agent at ipv4:127.0.0.1:"));
  EXPECT_THAT(log, HasSubstr(": " + sentence));
  EXPECT_THAT(log, HasSubstr("refuses this agent: " + sentence)) << "the agent says it, too";
}

TEST_F(ServerTest, AgentThatIsNotRoot_IsRefused_NamingItsUser) {
  start();
  testing::internal::CaptureStderr();
  FakeAuthenticator user(1234);
  {
    AgentDouble a("a", link_options(), user);
    ASSERT_TRUE(a.happened("hello", 2));
  }
  server_->stop();
  EXPECT_TRUE(inside_.events().empty());
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("uid 1234"));
}

TEST_F(ServerTest, AgentWithNoNodeName_IsRefused) {
  start();
  for (const char* name : {"", "../a", "a\nb"}) {
    AgentDouble a(name, link_options(), agents_authenticator_);
    ASSERT_TRUE(a.happened("hello", 2));
    EXPECT_EQ(a.count("attached"), 0);
  }
  EXPECT_TRUE(inside_.events().empty());
}

TEST_F(ServerTest, CoordinatorThatIsNoAdmins_IsRefusedByTheAgent) {
  FakeAuthenticator user(1234);
  Server impostor(options_, user);
  ASSERT_TRUE(impostor.start(inside_, inside_));
  options_.listen = "127.0.0.1:" + std::to_string(impostor.port());
  testing::internal::CaptureStderr();
  {
    const auto a = agent("a");
    ASSERT_TRUE(a->happened("hello", 2));
    EXPECT_EQ(a->count("attached"), 0);
  }
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("signed by uid 1234"));
  impostor.stop();
}

TEST_F(ServerTest, CoordinatorOfSlurmUser_IsAccepted) {
  FakeAuthenticator slurm(64030);
  Server server(options_, slurm);
  ASSERT_TRUE(server.start(inside_, inside_));
  options_.listen = "127.0.0.1:" + std::to_string(server.port());
  LinkOptions options = link_options();
  options.admins.slurm_uid = 64030;
  AgentDouble a("a", options, agents_authenticator_);
  EXPECT_TRUE(a.happened("attached"));
  server.stop();
}

TEST_F(ServerTest, RestartedCoordinator_HasItsAgentsBack_AndTakesNoOldAnswers) {
  start();
  const auto a = agent("a");
  ASSERT_TRUE(a->happened("attached"));
  auto open = send("a", 1);
  const auto old_order = a->order();
  ASSERT_TRUE(old_order);
  server_->stop();
  EXPECT_EQ(answer(open).error().code(), Code::kGone);
  EXPECT_THAT(inside_.events(), ElementsAre("attached a")) << "who stops loses no agents";
  ASSERT_TRUE(a->happened("lost"));
  start();
  ASSERT_TRUE(a->happened("attached", 2));
  auto again = send("a", 2);
  const auto new_order = a->order();
  ASSERT_TRUE(new_order);
  EXPECT_FALSE(a->done(old_order->id(), "old"));
  EXPECT_TRUE(a->done(new_order->id(), "new"));
  EXPECT_EQ(answer(again)->notes(0), "new");
}

TEST_F(ServerTest, SilentNetwork_IsNoticedOnBothSides) {
  options_.silence = milliseconds(600);
  start();
  Relay relay(server_->port());
  LinkOptions options = link_options();
  options.coordinator = relay.address();
  options.silence = milliseconds(600);
  AgentDouble a("a", options, agents_authenticator_);
  ASSERT_TRUE(a.happened("attached"));
  relay.set_silent(true);
  const auto begun = std::chrono::steady_clock::now();
  ASSERT_TRUE(inside_.happened("lost a"));
  ASSERT_TRUE(a.happened("lost"));
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(10));
  relay.set_silent(false);
  ASSERT_TRUE(a.happened("attached", 2));
}

TEST_F(ServerTest, IdleAgent_IsNotTakenForSilent) {
  options_.silence = milliseconds(400);
  start();
  LinkOptions options = link_options();
  options.silence = milliseconds(400);
  AgentDouble a("a", options, agents_authenticator_);
  ASSERT_TRUE(a.happened("attached"));
  std::this_thread::sleep_for(milliseconds(2500));  // what is tested is that nothing happens
  EXPECT_THAT(inside_.events(), ElementsAre("attached a"));
}

TEST_F(ServerTest, PortThatIsTaken_IsNamed) {
  start();
  Server second(options_, authenticator_);
  const Status status = second.start(inside_, inside_);
  EXPECT_EQ(status.code(), Code::kConflict);
  EXPECT_THAT(status.message(), HasSubstr(options_.listen));
}

TEST_F(ServerTest, Link_StopsAtOnce_WhereNobodyListens) {
  options_.listen = "127.0.0.1:1";
  LinkOptions options = link_options();
  options.first_pause = options.longest_pause = std::chrono::hours(1);
  AgentDouble a("a", options, agents_authenticator_);
  ASSERT_TRUE(a.happened("hello"));
  const auto begun = std::chrono::steady_clock::now();
  a.link().stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(10));
}

TEST_F(ServerTest, Link_SaysOnce_ThatNobodyListens) {
  options_.listen = "127.0.0.1:1";
  testing::internal::CaptureStderr();
  {
    const auto a = agent("a");
    ASSERT_TRUE(a->happened("hello", 5));
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("no coordinator answers at 127.0.0.1:1"));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
}

}  // namespace
}  // namespace fermata::coord
