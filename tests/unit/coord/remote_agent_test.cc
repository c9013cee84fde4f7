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

}  // namespace
}  // namespace fermata::coord
