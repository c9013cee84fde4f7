#include "node-agent/exchange_relay.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <memory>
#include <random>

#include "coord/exchange_board.h"
#include "tests/support/pod_model.h"

namespace fermata::node_agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr JobStep kStep{7, 1};

wire::PodId id(uint32_t pod, uint32_t start = 0) {
  wire::PodId id;
  id.set_job(kStep.job);
  id.set_step(kStep.step);
  id.set_pod(pod);
  id.set_start(start);
  return id;
}

wire::ExchangeUp part(uint32_t pod, uint64_t number, const std::string& blob,
                      const std::vector<uint32_t>& pods = {0, 1, 2, 3}) {
  wire::ExchangeUp up;
  *up.mutable_pod() = id(pod);
  up.mutable_contribution()->set_key("k");
  up.mutable_contribution()->set_number(number);
  up.mutable_contribution()->set_blob(blob);
  up.mutable_contribution()->mutable_pods()->Assign(pods.begin(), pods.end());
  return up;
}

wire::Gathered gathered(uint64_t number) {
  wire::Gathered gathered;
  gathered.set_key("k");
  gathered.set_number(number);
  gathered.set_blobs("all");
  return gathered;
}

std::vector<uint32_t> parts(const std::vector<wire::ExchangeUp>& ups) {
  std::vector<uint32_t> pods;
  for (const wire::ExchangeUp& up : ups) {
    for (const wire::Part& one : up.contribution().parts()) pods.push_back(one.pod());
  }
  return pods;
}

std::vector<uint32_t> receivers(const std::vector<wire::ExchangeDown>& downs) {
  std::vector<uint32_t> pods;
  for (const wire::ExchangeDown& down : downs) pods.push_back(down.pod().pod());
  return pods;
}

class ExchangeRelayTest : public ::testing::Test {
 protected:
  void SetUp() override { relay_.set_place(1, {1, 2, 3}); }
  ExchangeRelay relay_{kStep, 0};
};

TEST_F(ExchangeRelayTest, PartsFromBelow_GoUpInOneMessage_AndTheAnswerTheWayTheyCame) {
  EXPECT_THAT(relay_.take(part(3, 1, "c")).up, IsEmpty());
  EXPECT_THAT(relay_.take(part(1, 1, "a")).up, IsEmpty());
  EXPECT_TRUE(relay_.waits());
  const auto out = relay_.take(part(2, 1, "b"));
  ASSERT_THAT(out.up, SizeIs(1));
  EXPECT_EQ(out.up[0].pod().pod(), 1U);
  EXPECT_THAT(parts(out.up), ElementsAre(1, 2, 3));
  EXPECT_FALSE(relay_.waits());
  EXPECT_THAT(receivers(relay_.take(gathered(1)).down), ElementsAre(1, 2, 3));
}

TEST_F(ExchangeRelayTest, PartsWithoutData_GoUp) {
  for (const uint32_t pod : {1U, 2U}) relay_.take(part(pod, 1, ""));
  EXPECT_THAT(parts(relay_.flush().up), ElementsAre(1, 2));
  EXPECT_THAT(parts(relay_.take(part(3, 1, "")).up), ElementsAre(3));
}

TEST_F(ExchangeRelayTest, PartsOfAnotherRelay_GoOnWithItsNumber) {
  wire::ExchangeUp both = part(2, 1, "");
  for (const uint32_t pod : {2U, 3U}) both.mutable_contribution()->add_parts()->set_pod(pod);
  EXPECT_THAT(relay_.take(both).up, IsEmpty());
  EXPECT_THAT(parts(relay_.take(part(1, 1, "a")).up), ElementsAre(1, 2, 3));
  EXPECT_THAT(receivers(relay_.take(gathered(1)).down), ElementsAre(1, 2));
}

TEST_F(ExchangeRelayTest, PodsThatDoNotTakePart_AreNotWaitedFor) {
  EXPECT_THAT(relay_.take(part(3, 1, "c", {0, 1, 3})).up, IsEmpty());
  EXPECT_THAT(parts(relay_.take(part(1, 1, "a", {0, 1, 3})).up), ElementsAre(1, 3));
}

TEST_F(ExchangeRelayTest, WhatWaits_IsSentOn_Once) {
  relay_.take(part(3, 1, "c"));
  EXPECT_THAT(parts(relay_.flush().up), ElementsAre(3));
  EXPECT_THAT(relay_.flush().up, IsEmpty());
  EXPECT_FALSE(relay_.waits());
  relay_.take(part(2, 1, "b"));
  EXPECT_THAT(parts(relay_.take(part(1, 1, "a")).up), ElementsAre(1, 2));
}

TEST_F(ExchangeRelayTest, AfterAnAnswer_TheSameIsAnsweredHere) {
  relay_.take(part(1, 1, "a"));
  relay_.take(gathered(1));
  const auto out = relay_.take(part(3, 1, "c"));
  EXPECT_THAT(out.up, IsEmpty());
  EXPECT_THAT(receivers(out.down), ElementsAre(3));
  EXPECT_FALSE(relay_.waits());
}

TEST_F(ExchangeRelayTest, BeforeItHasAPlace_ARelayKeepsWhatItHears) {
  ExchangeRelay early(kStep, 0);
  EXPECT_THAT(early.take(part(3, 1, "c")).up, IsEmpty());
  EXPECT_THAT(early.flush().up, IsEmpty());
  early.set_place(1, {1, 3});
  EXPECT_THAT(parts(early.repeat().up), ElementsAre(3));
}

TEST_F(ExchangeRelayTest, WhoIsNewAbove_IsToldAllThatIsUnderWay) {
  for (const uint32_t pod : {1U, 2U, 3U}) relay_.take(part(pod, 1, "first"));
  relay_.take(gathered(1));
  relay_.take(part(2, 2, "second"));
  const auto out = relay_.repeat();
  ASSERT_THAT(out.up, SizeIs(2));
  EXPECT_EQ(out.up[0].contribution().number(), 1U);
  EXPECT_EQ(out.up[1].contribution().number(), 2U);
  EXPECT_THAT(parts(out.up), ElementsAre(1, 2, 3, 2));
}

TEST(ExchangeRelayLimitsTest, Messages_AreNotBiggerThanTheirParts) {
  ExchangeRelay relay(kStep, 0, {10000, 1000, 100});
  relay.set_place(1, {0, 1, 2, 3});
  for (const uint32_t pod : {0U, 1U, 2U}) relay.take(part(pod, 1, std::string(400, 'x')));
  const auto out = relay.take(part(3, 1, std::string(2000, 'x')));
  ASSERT_THAT(out.up, SizeIs(3));
  EXPECT_THAT(parts(out.up), ElementsAre(0, 1, 2, 3));
}

TEST(ExchangeRelayLimitsTest, WhatIsOver_IsForgotten) {
  ExchangeRelay relay(kStep, 0, {1000, 1000, 100});
  relay.set_place(1, {1});
  for (int key = 0; key < 5; ++key) {
    wire::ExchangeUp up = part(1, 1, std::string(400, 'x'));
    up.mutable_contribution()->set_key(std::to_string(key));
    relay.take(up);
    wire::Gathered answer;
    answer.set_key(std::to_string(key));
    answer.set_number(1);
    relay.take(answer);
  }
  EXPECT_THAT(relay.repeat().up, SizeIs(2));
}

// Who waits for the answer of one that was forgotten would wait for ever.
TEST(ExchangeRelayLimitsTest, WhatIsUnderWay_IsNotForgotten_AndWhatHasNoRoomFails) {
  ExchangeRelay relay(kStep, 0, {1000, 1000, 100});
  relay.set_place(1, {1});
  for (int key = 0; key < 5; ++key) {
    wire::ExchangeUp up = part(1, 1, std::string(400, 'x'));
    up.mutable_contribution()->set_key(std::to_string(key));
    const auto out = relay.take(up);
    ASSERT_THAT(out.up, SizeIs(1));
    const wire::Part& sent = out.up[0].contribution().parts(0);
    EXPECT_EQ(sent.status() != 0, key >= 2) << key;
    EXPECT_EQ(sent.blob().empty(), key >= 2) << key;
  }
  EXPECT_THAT(relay.repeat().up, SizeIs(5));
}

TEST(ExchangeRelayLimitsTest, OfOneKeyOnlyAFewAreUnderWay) {
  ExchangeRelay relay(kStep, 0, {.under_way = 3});
  relay.set_place(1, {1});
  for (uint64_t number = 1; number <= 100; ++number) relay.take(part(1, number, "x"));
  EXPECT_THAT(relay.repeat().up, SizeIs(3));
}

/// A step whose pods gather by a tree of arity two, on a network that loses, doubles and reorders,
/// with everything being restarted.
class TreeStorm {
 public:
  TreeStorm(unsigned seed, uint32_t pods, int rounds) : random_(seed), pods_(pods) {
    for (uint32_t pod = 0; pod < pods; ++pod) models_.emplace_back(pod, pods, rounds);
    saved_ = models_;
    begin();
  }

  bool run() {
    for (int i = 0; i < 4'000'000; ++i) {
      if (std::all_of(models_.begin(), models_.end(), [](const auto& m) { return m.done(); })) {
        return true;
      }
      happen();
    }
    return false;
  }
  const std::vector<coord::PodModel>& models() const { return models_; }
  uint32_t restarts() const { return start_; }

 private:
  static constexpr uint32_t kRoot = UINT32_MAX;
  struct Up {
    uint32_t to;  ///< a relay, or kRoot
    wire::ExchangeUp message;
  };

  bool chance(unsigned in) { return random_() % in == 0; }
  uint32_t any_pod() { return static_cast<uint32_t>(random_() % pods_); }
  uint32_t parent(uint32_t pod) const { return pod < 2 || alone_[pod] ? kRoot : pod / 2 - 1; }

  void happen() {
    if (chance(300)) return attach(any_pod());
    if (chance(300)) return flush(any_pod());
    if (chance(500)) return agent_restarts(any_pod());
    if (chance(1000)) return reroute(any_pod());
    if (chance(4000)) return new_board();
    if (chance(3000)) {
      saved_ = models_;
      return;
    }
    if (chance(6000)) {
      ++start_;
      models_ = saved_;
      return begin();
    }
    say_new();
    if (!ups_.empty() && chance(2)) {
      const Up up = pick(ups_);
      if (up.message.pod().start() != start_) return;
      if (up.to == kRoot) {
        send(board_->take(up.message));
      } else {
        emit(up.to, relays_[up.to]->take(up.message));
      }
    } else if (!downs_.empty()) {
      const wire::ExchangeDown down = pick(downs_);
      if (down.pod().start() != start_) return;
      const uint32_t to = down.pod().pod();
      if (down.has_gathered()) {
        emit(to, relays_[to]->take(down.gathered()));
      } else {
        models_[to].take(down);
      }
    }
  }

  template <typename T>
  T pick(std::vector<T>& messages) {
    const size_t at = random_() % messages.size();
    T message = messages[at];
    if (!chance(10)) {
      std::swap(messages[at], messages.back());
      messages.pop_back();
    }
    return message;
  }

  void say_new() {
    for (uint32_t pod = 0; pod < pods_; ++pod) {
      for (const auto& [file, up] : models_[pod].outbox()) {
        if (!sent_[pod].insert(file).second) continue;
        wire::ExchangeUp message = up;
        *message.mutable_pod() = id(pod, start_);
        fresh_.push_back(message);
      }
    }
    for (const wire::ExchangeUp& message : std::exchange(fresh_, {})) {
      if (message.has_contribution()) {
        emit(message.pod().pod(), relays_[message.pod().pod()]->take(message));
      } else if (!chance(10)) {
        ups_.push_back({kRoot, message});
      }
    }
  }
  /// What the relay of this pod's agent sends.
  void emit(uint32_t at, const ExchangeRelay::Out& out) {
    for (const wire::ExchangeUp& up : out.up) {
      if (!chance(10)) ups_.push_back({parent(at), up});
    }
    for (const wire::ExchangeDown& down : out.down) {
      if (down.pod().pod() == at) {
        models_[at].take(down);
      } else {
        send({down});
      }
    }
  }
  void send(const std::vector<wire::ExchangeDown>& downs) {
    for (const wire::ExchangeDown& down : downs) {
      if (!chance(10)) downs_.push_back(down);
    }
  }

  /// The stream to who is above is new, and that to the coordinator.
  void attach(uint32_t pod) {
    emit(pod, relays_[pod]->repeat());
    sent_[pod].clear();
    send(board_->attached(pod));
  }
  void flush(uint32_t pod) { emit(pod, relays_[pod]->flush()); }
  void reroute(uint32_t pod) {
    alone_[pod] = !alone_[pod];
    emit(pod, relays_[pod]->repeat());
  }
  void agent_restarts(uint32_t pod) {
    make_relay(pod);
    attach(pod);
    for (uint32_t child = 0; child < pods_; ++child) {
      if (parent(child) == pod) emit(child, relays_[child]->repeat());
    }
  }
  void new_board() {
    std::vector<uint32_t> pod_of_rank;
    for (uint32_t pod = 0; pod < pods_; ++pod) pod_of_rank.push_back(pod);
    board_.emplace(kStep, start_, pod_of_rank, pods_);
    for (uint32_t pod = 0; pod < pods_; ++pod) attach(pod);
  }
  void make_relay(uint32_t pod) {
    relays_[pod] = std::make_unique<ExchangeRelay>(kStep, start_);
    std::set<uint32_t> below{pod};
    for (uint32_t other = 0; other < pods_; ++other) {
      uint32_t at = other;
      while (at >= 2 && at != pod) at = at / 2 - 1;
      if (at == pod) below.insert(other);
    }
    relays_[pod]->set_place(pod, std::move(below));
  }
  void begin() {
    relays_.resize(pods_);
    sent_.assign(pods_, {});
    alone_.assign(pods_, false);
    for (uint32_t pod = 0; pod < pods_; ++pod) make_relay(pod);
    new_board();
  }

  std::mt19937 random_;
  uint32_t pods_;
  uint32_t start_ = 0;
  std::vector<coord::PodModel> models_;
  std::vector<coord::PodModel> saved_;
  std::vector<std::unique_ptr<ExchangeRelay>> relays_;
  std::vector<std::set<uint64_t>> sent_;
  std::vector<bool> alone_;  ///< sends to the coordinator past its parent
  std::optional<coord::ExchangeBoard> board_;
  std::vector<wire::ExchangeUp> fresh_;
  std::vector<Up> ups_;
  std::vector<wire::ExchangeDown> downs_;
};

TEST(ExchangeRelayStormTest, TheProgramComesToItsEnd_WhateverHappensToTheTree) {
  constexpr int kRounds = 30;
  uint32_t restarts = 0;
  for (unsigned seed = 1; seed <= 12; ++seed) {
    TreeStorm storm(seed, 3 + seed % 7, kRounds);
    ASSERT_TRUE(storm.run()) << "seed " << seed;
    restarts += storm.restarts();
    for (const auto& [asker, calls] : storm.models()[0].calls()) {
      EXPECT_EQ(calls, kRounds) << "of pod " << asker << ", seed " << seed;
    }
  }
  EXPECT_GT(restarts, 5U);
}

}  // namespace
}  // namespace fermata::node_agent
