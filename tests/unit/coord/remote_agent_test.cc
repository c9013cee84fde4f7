// A pod on another node, as the set protocol sees it.
#include "coord/remote_agent.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coord/set_protocol.h"
#include "coord/writer_gate.h"
#include "tests/unit/coord/fake_fleet.h"

namespace fermata::coord {
namespace {

// An order without a time is one that may take long.
TEST(RemoteAgent, OrderThatIsLate_StillHasATime) {
  FakeFleet fleet;
  WriterGate gate(0);
  RemoteAgent agent(fleet, gate, "n1", {{1, 0}, 0, 0}, {});
  std::vector<uint64_t> timeouts;
  fleet.set_silent([&](const std::string&, const wire::Order& order) {
    timeouts.push_back(order.timeout_ns());
    return true;
  });
  fleet.attach("n1");
  const Time past = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  for (const Phase phase : {Phase::kPrepare, Phase::kWriteBack}) {
    agent.begin(phase, {}, past);
    EXPECT_EQ(agent.await(past).error().code(), Code::kTimeout);
  }
  EXPECT_THAT(timeouts, testing::ElementsAre(1, 1));
}

// Sets of many jobs at once failed because others wrote for longer than one set may take.
TEST(RemoteAgent, WaitForItsTurnToWrite_DoesNotCountAgainstItsDeadline) {
  FakeFleet fleet;
  WriterGate gate(1);
  for (const char* node : {"n1", "n2"}) {
    fleet.attach(node);
    fleet.add_pod(node, {{1, 0}, 0, 0});
  }
  RemoteAgent writes(fleet, gate, "n1", {{1, 0}, 0, 0}, {});
  RemoteAgent waits(fleet, gate, "n2", {{1, 0}, 0, 0}, {});
  fleet.set_silent([&](const std::string& node, const wire::Order&) { return node == "n1"; });
  const Time now = std::chrono::steady_clock::now();
  writes.begin(Phase::kWriteBack, {}, now + std::chrono::hours(1));
  const Time deadline = now + std::chrono::seconds(2);
  waits.begin(Phase::kWriteBack, {}, deadline);
  std::this_thread::sleep_until(deadline);
  const std::jthread later([&] { fleet.lose("n1"); });
  const Result<AgentReport> report = waits.await(deadline);
  ASSERT_TRUE(report) << report.error().message();
  EXPECT_GE(report->queued, std::chrono::seconds(2));
}

// Files of an agent that was at its commit still came after the others were removed.
TEST(RemoteAgent, RollBackIsWaitedFor_AlsoWhenTheSetWasGivenUp) {
  FakeFleet fleet;
  WriterGate gate(0);
  std::stop_source give_up;
  fleet.attach("n1");
  fleet.add_pod("n1", {{1, 0}, 0, 0});
  RemoteAgent agent(fleet, gate, "n1", {{1, 0}, 0, 0}, give_up.get_token());
  fleet.set_silent([&](const std::string&, const wire::Order&) { return true; });
  give_up.request_stop();
  agent.roll_back({});
  const auto answer_in = std::chrono::milliseconds(100);
  const Time begun = std::chrono::steady_clock::now();
  std::jthread later([&] {
    std::this_thread::sleep_for(answer_in);
    fleet.lose("n1");
  });
  agent.await_roll_back(begun + std::chrono::minutes(1));
  EXPECT_GE(std::chrono::steady_clock::now() - begun, answer_in);
}

}  // namespace
}  // namespace fermata::coord
