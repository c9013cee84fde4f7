#include "coord/exchange_board.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <random>

#include "tests/support/pod_model.h"

namespace fermata::coord {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr JobStep kStep{7, 1};

wire::ExchangeUp from(uint32_t pod, uint32_t start = 0) {
  wire::ExchangeUp up;
  up.mutable_pod()->set_job(kStep.job);
  up.mutable_pod()->set_step(kStep.step);
  up.mutable_pod()->set_pod(pod);
  up.mutable_pod()->set_start(start);
  return up;
}

wire::ExchangeUp contribution(uint32_t pod, const std::string& key, uint64_t number,
                              const std::vector<uint32_t>& pods, const std::string& blob,
                              int32_t status = 0) {
  wire::ExchangeUp up = from(pod);
  wire::Contribution* part = up.mutable_contribution();
  part->set_key(key);
  part->set_number(number);
  part->mutable_pods()->Assign(pods.begin(), pods.end());
  part->set_blob(blob);
  part->set_status(status);
  return up;
}

wire::ExchangeUp request(uint32_t asker, uint32_t rank, uint64_t number) {
  wire::ExchangeUp up = from(asker);
  up.mutable_fetch()->set_rank(rank);
  up.mutable_fetch()->set_number(number);
  up.mutable_fetch()->set_settled(number);
  return up;
}

wire::ExchangeUp reply(uint32_t server, uint32_t asker, uint64_t number) {
  wire::ExchangeUp up = from(server);
  up.mutable_served()->set_asker(asker);
  up.mutable_served()->set_number(number);
  up.mutable_served()->set_found(true);
  up.mutable_served()->set_blob("data");
  return up;
}

std::vector<uint32_t> pods_of(const std::vector<wire::ExchangeDown>& downs) {
  std::vector<uint32_t> pods;
  for (const wire::ExchangeDown& down : downs) pods.push_back(down.pod().pod());
  return pods;
}

class ExchangeBoardTest : public ::testing::Test {
 protected:
  ExchangeBoard board_{kStep, 0, {0, 0, 1, 1, 2, 2}, 3};
};

TEST_F(ExchangeBoardTest, Parts_ArePutTogether_InTheOrderOfPods) {
  EXPECT_THAT(board_.take(contribution(2, "*", 1, {0, 1, 2}, "c")), IsEmpty());
  EXPECT_THAT(board_.take(contribution(0, "*", 1, {0, 1, 2}, "a")), IsEmpty());
  EXPECT_THAT(board_.take(contribution(0, "*", 1, {0, 1, 2}, "again")), IsEmpty());
  const auto downs = board_.take(contribution(1, "*", 1, {0, 1, 2}, "b"));
  EXPECT_THAT(pods_of(downs), ElementsAre(0, 1, 2));
  EXPECT_EQ(downs[1].gathered().blobs(), "abc");
  EXPECT_EQ(downs[1].gathered().key(), "*");
  EXPECT_EQ(downs[1].gathered().number(), 1U);
  EXPECT_EQ(downs[1].gathered().status(), 0);
}

TEST_F(ExchangeBoardTest, OnlyThePodsThatTakePart_AreTold) {
  board_.take(contribution(0, "0,4", 1, {0, 2}, "a"));
  EXPECT_THAT(pods_of(board_.take(contribution(2, "0,4", 1, {0, 2}, "c"))), ElementsAre(0, 2));
}

TEST_F(ExchangeBoardTest, AFailureInOnePod_IsTheFailureOfAll) {
  board_.take(contribution(0, "0-2", 1, {0, 1}, "a"));
  const auto downs = board_.take(contribution(1, "0-2", 1, {0, 1}, "", -25));
  ASSERT_THAT(downs, SizeIs(2));
  EXPECT_EQ(downs[0].gathered().status(), -25);
}

TEST_F(ExchangeBoardTest, APartSaidAgain_IsAnsweredAgain_UntilTheNextIsGathered) {
  board_.take(contribution(0, "k", 1, {0, 1}, "a"));
  board_.take(contribution(1, "k", 1, {0, 1}, "b"));
  const auto again = board_.take(contribution(1, "k", 1, {0, 1}, "b"));
  EXPECT_THAT(pods_of(again), ElementsAre(1));
  EXPECT_EQ(again[0].gathered().blobs(), "ab");
  board_.take(contribution(0, "k", 2, {0, 1}, "A"));
  EXPECT_THAT(board_.take(contribution(1, "k", 1, {0, 1}, "b")), SizeIs(1));
  board_.take(contribution(1, "k", 2, {0, 1}, "B"));
  EXPECT_THAT(board_.take(contribution(1, "k", 1, {0, 1}, "b")), IsEmpty());
}

TEST_F(ExchangeBoardTest, ANewBoard_LearnsWhatIsUnderWay_FromWhatPodsKeep) {
  // Pod 0 has heard of the first and is in the second; pod 1 has not heard of the first.
  board_.take(contribution(0, "k", 2, {0, 1}, "A"));
  board_.take(contribution(0, "k", 1, {0, 1}, "a"));
  const auto first = board_.take(contribution(1, "k", 1, {0, 1}, "b"));
  EXPECT_THAT(pods_of(first), ElementsAre(0, 1));
  EXPECT_EQ(first[0].gathered().blobs(), "ab");
  EXPECT_EQ(board_.take(contribution(1, "k", 2, {0, 1}, "B"))[0].gathered().blobs(), "AB");
}

TEST_F(ExchangeBoardTest, ARequest_GoesToThePodOfTheRank_AndItsAnswerBack) {
  const auto asked = board_.take(request(0, 5, 1));
  ASSERT_THAT(pods_of(asked), ElementsAre(2));
  EXPECT_EQ(asked[0].serve().rank(), 5U);
  EXPECT_EQ(asked[0].serve().asker(), 0U);
  EXPECT_THAT(board_.take(reply(1, 0, 1)), IsEmpty()) << "of a pod that was not asked";
  const auto answered = board_.take(reply(2, 0, 1));
  ASSERT_THAT(pods_of(answered), ElementsAre(0));
  EXPECT_EQ(answered[0].fetched().blob(), "data");
  EXPECT_THAT(board_.take(reply(2, 0, 1)), IsEmpty()) << "twice";
}

TEST_F(ExchangeBoardTest, APodAttachedAnew_IsAskedAgain) {
  board_.take(request(0, 5, 1));
  EXPECT_THAT(pods_of(board_.attached(2)), ElementsAre(2));
  EXPECT_THAT(board_.attached(1), IsEmpty());
  board_.take(reply(2, 0, 1));
  EXPECT_THAT(board_.attached(2), IsEmpty());
}

TEST_F(ExchangeBoardTest, APodThatHasEnded_IsNotWaitedFor) {
  board_.take(request(0, 5, 1));
  const auto downs = board_.pod_ended(2);
  ASSERT_THAT(pods_of(downs), ElementsAre(0));
  EXPECT_FALSE(downs[0].fetched().found());
  EXPECT_EQ(downs[0].fetched().number(), 1U);
  const auto later = board_.take(request(1, 4, 9));
  ASSERT_THAT(pods_of(later), ElementsAre(1));
  EXPECT_FALSE(later[0].fetched().found());
}

TEST_F(ExchangeBoardTest, AnAbort_IsToldToTheOthers_AndToWhoComesLater) {
  wire::ExchangeUp up = from(1);
  up.mutable_abort()->set_status(42);
  up.mutable_abort()->set_reason("why");
  const auto downs = board_.take(up);
  EXPECT_THAT(pods_of(downs), ElementsAre(0, 2));
  EXPECT_EQ(downs[0].abort().status(), 42);
  EXPECT_EQ(downs[0].abort().reason(), "why");
  up.mutable_abort()->set_status(1);
  EXPECT_THAT(board_.take(up), IsEmpty());
  const auto later = board_.attached(2);
  ASSERT_THAT(later, SizeIs(1));
  EXPECT_EQ(later[0].abort().status(), 42) << "the first decides";
}

TEST_F(ExchangeBoardTest, WhatIsNoneOfThisSteps_IsIgnored) {
  wire::ExchangeUp up = contribution(0, "k", 1, {0}, "a");
  EXPECT_THAT(board_.take(up), SizeIs(1));
  for (const auto& change : std::vector<void (*)(wire::ExchangeUp&)>{
           [](wire::ExchangeUp& m) { m.mutable_pod()->set_start(1); },
           [](wire::ExchangeUp& m) { m.mutable_pod()->set_job(8); },
           [](wire::ExchangeUp& m) { m.mutable_pod()->set_step(0); },
           [](wire::ExchangeUp& m) { m.mutable_pod()->set_pod(3); },
           [](wire::ExchangeUp& m) { m.mutable_contribution()->set_number(0); },
           [](wire::ExchangeUp& m) { m.mutable_contribution()->clear_pods(); },
           [](wire::ExchangeUp& m) { m.mutable_contribution()->set_pods(0, 1); },
           [](wire::ExchangeUp& m) { m.mutable_contribution()->add_pods(7); },
           [](wire::ExchangeUp& m) { m.mutable_contribution()->add_pods(0); },
           [](wire::ExchangeUp& m) { m.clear_contribution(); },
           [](wire::ExchangeUp& m) { m.mutable_fetch()->set_rank(99); },
           [](wire::ExchangeUp& m) { m.mutable_fetch()->set_rank(0); },
           [](wire::ExchangeUp& m) {
             m.mutable_fetch()->set_names("x");
             m.mutable_fetch()->set_server(99);
           }}) {
    wire::ExchangeUp changed = up;
    change(changed);
    EXPECT_THAT(board_.take(changed), IsEmpty()) << changed.DebugString();
  }
}

TEST(ExchangeBoardLimitsTest, WhatIsCompleted_IsForgottenFirst) {
  ExchangeBoard board(kStep, 0, {0, 1}, 2, {3000, 2000, 100, 10});
  const std::string blob(400, 'x');
  for (int key = 0; key < 10; ++key) {
    board.take(contribution(0, std::to_string(key), 1, {0, 1}, blob));
    EXPECT_THAT(board.take(contribution(1, std::to_string(key), 1, {0, 1}, blob)), SizeIs(2));
    EXPECT_LE(board.bytes(), 3000U);
  }
  EXPECT_THAT(board.take(contribution(0, "9", 1, {0, 1}, blob)), SizeIs(1));
  // Who asks for it again is not left waiting.
  const auto late = board.take(contribution(0, "0", 1, {0, 1}, blob));
  ASSERT_THAT(pods_of(late), ElementsAre(0));
  EXPECT_EQ(late[0].gathered().key(), "0");
  EXPECT_EQ(late[0].gathered().number(), 1U);
  EXPECT_NE(late[0].gathered().status(), 0);
}

TEST(ExchangeBoardLimitsTest, TooMuchUnderWay_AbortsTheStep) {
  ExchangeBoard board(kStep, 0, {0, 1}, 2, {3000, 2000, 100, 10});
  const std::string blob(800, 'x');
  for (int key = 0; key < 3; ++key) {
    EXPECT_THAT(board.take(contribution(0, std::to_string(key), 1, {0, 1}, blob)), IsEmpty());
  }
  const auto downs = board.take(contribution(0, "3", 1, {0, 1}, blob));
  EXPECT_THAT(pods_of(downs), ElementsAre(0, 1));
  EXPECT_THAT(downs[0].abort().reason(), HasSubstr("more than the coordinator holds"));
}

TEST(ExchangeBoardLimitsTest, ACollectiveThatNoMessageHolds_AbortsTheStep) {
  ExchangeBoard board(kStep, 0, {0, 1}, 2, {10000, 1500, 100, 10});
  const std::string blob(800, 'x');
  board.take(contribution(0, "k", 1, {0, 1}, blob));
  const auto downs = board.take(contribution(1, "k", 1, {0, 1}, blob));
  ASSERT_THAT(downs, SizeIs(2));
  EXPECT_THAT(downs[0].abort().reason(), HasSubstr("more than a message holds"));
  EXPECT_EQ(board.bytes(), 0U);
}

/// A step on a network that loses, doubles and reorders, with agents, coordinator and the step
/// itself being restarted.
class Storm {
 public:
  Storm(unsigned seed, uint32_t pods, int rounds) : random_(seed), pods_(pods) {
    for (uint32_t pod = 0; pod < pods; ++pod) models_.emplace_back(pod, pods, rounds);
    saved_ = models_;
    new_board();
  }

  /// Whether the program came to its end.
  bool run() {
    for (int i = 0; i < 2'000'000; ++i) {
      if (std::all_of(models_.begin(), models_.end(), [](const PodModel& m) { return m.done(); })) {
        return true;
      }
      happen();
    }
    return false;
  }
  const std::vector<PodModel>& models() const { return models_; }
  uint32_t restarts() const { return start_; }
  size_t most_bytes() const { return most_bytes_; }

 private:
  bool chance(unsigned in) { return random_() % in == 0; }

  void happen() {
    if (chance(400)) return attach(static_cast<uint32_t>(random_() % pods_));
    if (chance(4000)) return restart_coordinator();
    if (chance(3000)) {
      saved_ = models_;
      return;
    }
    if (chance(6000)) return restart_step();
    say_new();
    if (!ups_.empty() && chance(2)) {
      const wire::ExchangeUp up = pick(ups_);
      send(board_->take(up));
      most_bytes_ = std::max(most_bytes_, board_->bytes());
    } else if (!downs_.empty()) {
      const wire::ExchangeDown down = pick(downs_);
      // As an agent does: for this start only.
      if (down.pod().start() == start_) models_[down.pod().pod()].take(down);
    }
  }

  /// One message of those on the way, in any order; some stay and come again.
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
        if (sent_[pod].insert(file).second) put(pod, up);
      }
    }
  }
  void put(uint32_t pod, wire::ExchangeUp up) {
    if (chance(10)) return;  // lost
    *up.mutable_pod() = from(pod, start_).pod();
    ups_.push_back(std::move(up));
  }
  void send(const std::vector<wire::ExchangeDown>& downs) {
    for (const wire::ExchangeDown& down : downs) {
      if (!chance(10)) downs_.push_back(down);
    }
  }
  void attach(uint32_t pod) {
    sent_[pod].clear();
    send(board_->attached(pod));
  }
  void new_board() {
    std::vector<uint32_t> pod_of_rank;
    for (uint32_t pod = 0; pod < pods_; ++pod) pod_of_rank.push_back(pod);
    board_.emplace(kStep, start_, pod_of_rank, pods_);
    sent_.assign(pods_, {});
  }
  void restart_coordinator() { new_board(); }
  void restart_step() {
    ++start_;
    models_ = saved_;
    new_board();
  }

  std::mt19937 random_;
  uint32_t pods_;
  uint32_t start_ = 0;
  std::vector<PodModel> models_;
  std::vector<PodModel> saved_;
  std::vector<std::set<uint64_t>> sent_;
  std::optional<ExchangeBoard> board_;
  std::vector<wire::ExchangeUp> ups_;
  std::vector<wire::ExchangeDown> downs_;
  size_t most_bytes_ = 0;
};

TEST(ExchangeBoardStormTest, TheProgramComesToItsEnd_WhateverHappens) {
  constexpr int kRounds = 60;
  uint32_t restarts = 0;
  for (unsigned seed = 1; seed <= 20; ++seed) {
    Storm storm(seed, 2 + seed % 4, kRounds);
    ASSERT_TRUE(storm.run()) << "seed " << seed;
    restarts += storm.restarts();
    // Each call was carried out once, in the life that led to the end.
    for (const auto& [asker, calls] : storm.models()[0].calls()) {
      EXPECT_EQ(calls, kRounds) << "of pod " << asker << ", seed " << seed;
    }
    // Two collectives, of each the last and what is under way.
    EXPECT_LT(storm.most_bytes(), 1000U);
  }
  EXPECT_GT(restarts, 20U);
}

}  // namespace
}  // namespace fermata::coord
