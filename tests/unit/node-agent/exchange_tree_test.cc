// Trees of agents on loopback, with a board in place of the coordinator and no pods: what they say
// is made up here.
#include "node-agent/exchange_tree.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "coord/exchange_board.h"
#include "coord/exchange_routes.h"
#include "tests/support/fake_authenticator.h"

namespace fermata::node_agent {
namespace {

using std::chrono::milliseconds;

constexpr JobStep kStep{7, 1};
constexpr std::chrono::seconds kPatience{30};

/// Agents of one pod each below a coordinator.
class Forest {
 public:
  Forest(uint32_t agents, size_t arity) : agents_(agents), arity_(arity) {
    std::vector<uint32_t> pod_of_rank;
    for (uint32_t pod = 0; pod < agents; ++pod) pod_of_rank.push_back(pod);
    board_.emplace(kStep, 0, pod_of_rank, agents);
    trees_.resize(agents);
    ports_.resize(agents, "127.0.0.1:0");
    for (uint32_t pod = 0; pod < agents; ++pod) start(pod);
    for (uint32_t pod = 0; pod < agents; ++pod) tell_route(pod);
  }
  ~Forest() {
    for (auto& tree : trees_) {
      if (tree) tree->stop();
    }
  }

  void start(uint32_t pod) {
    TreeOptions options;
    options.listen = ports_[pod];
    options.node = "n" + std::to_string(pod);
    options.link.coordinator = "127.0.0.1:1";
    options.link.first_pause = milliseconds(10);
    options.link.longest_pause = milliseconds(50);
    options.patience = milliseconds(300);
    auto tree = std::make_unique<ExchangeTree>(
        options, authenticator_,
        TreeEvents{.to_coordinator = [this](const wire::ExchangeUp& up) { to_coordinator(up); },
                   .to_pod = [this](const wire::ExchangeDown& down) { to_pod(down); }});
    const Status started = tree->start();
    ASSERT_TRUE(started) << started.message();
    const std::string address = tree->address();
    // Its port stays; the address is this machine's, which tests do not use.
    ports_[pod] = "127.0.0.1" + address.substr(address.rfind(':'));
    const std::lock_guard lock(trees_mutex_);
    trees_[pod] = std::move(tree);
  }
  void tell_route(uint32_t pod) {
    std::vector<coord::TreeNode> nodes;
    for (uint32_t other = 0; other < agents_; ++other) {
      nodes.push_back({"n" + std::to_string(other), ports_[other], {other}});
    }
    const auto routes = coord::exchange_routes(kStep, 0, nodes, arity_);
    if (!routes.empty()) trees_[pod]->down(routes[pod].message);
  }
  void stop(uint32_t pod) {
    std::unique_ptr<ExchangeTree> tree;
    const std::lock_guard lock(trees_mutex_);
    tree.swap(trees_[pod]);
  }

  /// A pod's part of the `number`-th collective of all.
  void contribute(uint32_t pod, uint64_t number) { trees_[pod]->up(part(pod, number)); }
  void contribute_past_the_agent(uint32_t pod, uint64_t number) {
    to_coordinator(part(pod, number));
  }
  wire::ExchangeUp part(uint32_t pod, uint64_t number) const {
    wire::ExchangeUp up;
    up.mutable_pod()->set_job(kStep.job);
    up.mutable_pod()->set_step(kStep.step);
    up.mutable_pod()->set_pod(pod);
    up.mutable_contribution()->set_key("*");
    up.mutable_contribution()->set_number(number);
    up.mutable_contribution()->set_blob(std::to_string(pod) + ";");
    for (uint32_t one = 0; one < agents_; ++one) up.mutable_contribution()->add_pods(one);
    return up;
  }
  void contribute_all(uint64_t number) {
    for (uint32_t pod = 0; pod < agents_; ++pod) contribute(pod, number);
  }
  /// Whether every pod but this one hears of it.
  bool all_heard(uint64_t number, uint32_t but = UINT32_MAX) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] {
      for (uint32_t pod = 0; pod < agents_; ++pod) {
        if (pod != but && heard_[pod] < number) return false;
      }
      return true;
    });
  }
  size_t to_coordinator_count() {
    const std::lock_guard lock(mutex_);
    return messages_;
  }

 private:
  void to_coordinator(const wire::ExchangeUp& up) {
    std::vector<wire::ExchangeDown> downs;
    {
      const std::lock_guard lock(mutex_);
      ++messages_;
      downs = board_->take(up);
    }
    const std::lock_guard lock(trees_mutex_);
    for (wire::ExchangeDown& down : downs) {
      if (ExchangeTree* tree = trees_[down.pod().pod()].get()) tree->down(std::move(down));
    }
  }
  void to_pod(const wire::ExchangeDown& down) {
    std::string all;
    for (uint32_t pod = 0; pod < agents_; ++pod) all += std::to_string(pod) + ";";
    EXPECT_EQ(down.gathered().blobs(), all);
    const std::lock_guard lock(mutex_);
    uint64_t& heard = heard_[down.pod().pod()];
    heard = std::max<uint64_t>(heard, down.gathered().number());
    changed_.notify_all();
  }

  const uint32_t agents_;
  const size_t arity_;
  FakeAuthenticator authenticator_;
  std::mutex mutex_;
  std::mutex trees_mutex_;
  std::condition_variable changed_;
  std::optional<coord::ExchangeBoard> board_;
  std::map<uint32_t, uint64_t> heard_;
  size_t messages_ = 0;
  std::vector<std::string> ports_;
  std::vector<std::unique_ptr<ExchangeTree>> trees_;
};

TEST(ExchangeTreeTest, TheCoordinator_HearsOfItsOwnChildrenOnly) {
  Forest forest(13, 3);
  forest.contribute_all(1);
  ASSERT_TRUE(forest.all_heard(1));
  // Streams stand by now: from here on each collective takes one message of each child.
  const size_t before = forest.to_coordinator_count();
  for (uint64_t number = 2; number <= 11; ++number) {
    forest.contribute_all(number);
    ASSERT_TRUE(forest.all_heard(number));
  }
  // A part may be slow on a loaded machine and follow by itself.
  EXPECT_LT(forest.to_coordinator_count() - before, 10 * 13 / 2);
}

TEST(ExchangeTreeTest, AnAgentThatIsAway_IsGoneRound_AndComesBack) {
  Forest forest(7, 2);
  forest.contribute_all(1);
  ASSERT_TRUE(forest.all_heard(1));
  forest.stop(0);
  // Its pod says nothing; nobody is told, and nobody waits for the agent.
  for (uint32_t pod = 1; pod < 7; ++pod) forest.contribute(pod, 2);
  // The pod of the agent that comes back says its part, which completes it.
  std::this_thread::sleep_for(milliseconds(500));
  forest.start(0);
  forest.tell_route(0);
  forest.contribute(0, 2);
  ASSERT_TRUE(forest.all_heard(2));
  for (uint64_t number = 3; number <= 6; ++number) {
    forest.contribute_all(number);
    ASSERT_TRUE(forest.all_heard(number)) << number;
  }
}

TEST(ExchangeTreeTest, WithAnAgentAwayForGood_TheOthersGather) {
  Forest forest(7, 2);
  forest.contribute_all(1);
  ASSERT_TRUE(forest.all_heard(1));
  forest.stop(1);
  // Its pod goes on, and is told of by another way: the test itself.
  for (uint64_t number = 2; number <= 3; ++number) {
    for (uint32_t pod = 0; pod < 7; ++pod) {
      if (pod != 1) forest.contribute(pod, number);
    }
    forest.contribute_past_the_agent(1, number);
    ASSERT_TRUE(forest.all_heard(number, 1)) << number;
  }
}

TEST(ExchangeTreeTest, WithoutARoute_AllGoesToTheCoordinator) {
  Forest forest(3, 3);  // no more than the arity
  forest.contribute_all(1);
  ASSERT_TRUE(forest.all_heard(1));
  EXPECT_EQ(forest.to_coordinator_count(), 3U);
}

}  // namespace
}  // namespace fermata::node_agent
