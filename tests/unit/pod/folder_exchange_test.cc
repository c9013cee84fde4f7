// The files by which podinit speaks to the agent, without pods, agents or PMIx.
#include "node-agent/pod/podinit/folder_exchange.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "tests/support/scratch_folder.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FolderExchangeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(make_exchange_folders(out(), in()));
    exchange_.emplace(
        out(), in(), mailbox_,
        FolderExchange::Handlers{[this](uint32_t rank, Exchange::Answer answer) {
                                   served_.push_back(rank);
                                   answer_ = std::move(answer);
                                 },
                                 [this](const std::string& call, const Exchange::Answer& answer) {
                                   calls_.push_back(call);
                                   answer(true, "outcome of " + call);
                                 },
                                 [this](int32_t status, const std::string& why) {
                                   aborted_ = std::to_string(status) + " " + why;
                                 },
                                 [this](uint32_t rank) { heard_.push_back(rank); },
                                 [this](const std::string& text) { said_ += text; }});
  }

  fs::path out() const { return folder_.path() / "exchange" / "out"; }
  fs::path in() const { return folder_.path() / "exchange" / "in"; }

  /// The main loop's part.
  void loop() {
    for (bool again = true; again;) {
      const std::vector<Message> messages = mailbox_.take();
      for (const Message& message : messages) message.call();
      again = !messages.empty();
    }
  }
  /// All messages in the outbox, by name.
  std::map<uint64_t, wire::ExchangeUp> outbox() {
    std::map<uint64_t, wire::ExchangeUp> messages;
    for (const auto& entry : fs::directory_iterator(out())) {
      std::ifstream file(entry.path());
      EXPECT_TRUE(messages[std::stoull(entry.path().filename())].ParseFromIstream(&file));
    }
    return messages;
  }
  void receive(const wire::ExchangeDown& message) {
    static int name = 0;
    std::ofstream(in() / std::to_string(++name)) << message.SerializeAsString();
    exchange_->read_inbox();
    loop();
    EXPECT_TRUE(fs::is_empty(in()));
  }
  void gathered(const std::string& key, uint64_t number, const std::string& blobs) {
    wire::ExchangeDown down;
    down.mutable_gathered()->set_key(key);
    down.mutable_gathered()->set_number(number);
    down.mutable_gathered()->set_blobs(blobs);
    receive(down);
  }
  static wire::ExchangeDown to_serve(uint64_t number, uint64_t settled, const std::string& names) {
    wire::ExchangeDown down;
    down.mutable_serve()->set_asker(3);
    down.mutable_serve()->set_rank(7);
    down.mutable_serve()->set_number(number);
    down.mutable_serve()->set_settled(settled);
    down.mutable_serve()->set_names(names);
    return down;
  }
  void gather(const std::string& blob) {
    exchange_->gather({"*", {0, 1}, blob, 0}, [this](int32_t status, const std::string& all) {
      answers_.push_back(std::to_string(status) + " " + all);
    });
    loop();
  }
  std::vector<std::string> blobs_kept() {
    std::vector<std::string> blobs;
    for (const auto& [name, up] : outbox()) blobs.push_back(up.contribution().blob());
    return blobs;
  }

  ScratchFolder folder_;
  Mailbox mailbox_;
  std::optional<FolderExchange> exchange_;
  std::vector<std::string> answers_;
  std::vector<uint32_t> served_;
  std::vector<std::string> calls_;
  Exchange::Answer answer_;
  std::string aborted_;
  std::vector<uint32_t> heard_;
  std::string said_;
};

TEST_F(FolderExchangeTest, APart_StaysUntilTheNextOfItsKeyIsGathered) {
  gather("first");
  EXPECT_THAT(answers_, IsEmpty());
  EXPECT_EQ(outbox().begin()->second.contribution().number(), 1U);
  EXPECT_THAT(outbox().begin()->second.contribution().pods(), ElementsAre(0, 1));
  gathered("*", 1, "all");
  EXPECT_THAT(answers_, ElementsAre("0 all"));
  EXPECT_THAT(blobs_kept(), ElementsAre("first"));
  gather("second");
  EXPECT_THAT(blobs_kept(), ElementsAre("first", "second"));
  gathered("*", 1, "late");
  EXPECT_THAT(answers_, ElementsAre("0 all"));
  gathered("*", 2, "more");
  EXPECT_THAT(answers_, ElementsAre("0 all", "0 more"));
  EXPECT_THAT(blobs_kept(), ElementsAre("second"));
}

TEST_F(FolderExchangeTest, ARequest_StaysUntilItIsAnswered_AndSaysWhatIsSettled) {
  std::vector<std::string> got;
  for (const uint32_t rank : {5U, 6U}) {
    exchange_->fetch(rank, [&got, rank](bool found, const std::string& data) {
      got.push_back(std::to_string(rank) + (found ? " " + data : ""));
    });
  }
  loop();
  ASSERT_EQ(outbox().size(), 2U);
  EXPECT_EQ(outbox().rbegin()->second.fetch().settled(), 1U);
  wire::ExchangeDown down;
  down.mutable_fetched()->set_number(1);
  down.mutable_fetched()->set_found(true);
  down.mutable_fetched()->set_blob("data");
  receive(down);
  receive(down);
  EXPECT_THAT(got, ElementsAre("5 data"));
  EXPECT_EQ(outbox().size(), 1U);
  exchange_->call_names(0, "call", [](bool, const std::string&) {});
  loop();
  EXPECT_EQ(outbox().rbegin()->second.fetch().settled(), 2U);
  EXPECT_EQ(outbox().rbegin()->second.fetch().names(), "call");
}

TEST_F(FolderExchangeTest, ACallOfAnotherPod_IsCarriedOutOnce_AndAnsweredAsOftenAsItIsAskedFor) {
  receive(to_serve(1, 1, "publish"));
  EXPECT_THAT(calls_, ElementsAre("publish"));
  ASSERT_EQ(outbox().size(), 1U);
  const uint64_t first = outbox().begin()->first;
  EXPECT_EQ(outbox().begin()->second.served().blob(), "outcome of publish");
  EXPECT_EQ(outbox().begin()->second.served().asker(), 3U);
  receive(to_serve(1, 1, "publish"));
  EXPECT_THAT(calls_, ElementsAre("publish"));
  ASSERT_EQ(outbox().size(), 1U);
  EXPECT_GT(outbox().begin()->first, first) << "a new name, or the agent would not take it up";
  receive(to_serve(2, 2, "lookup"));
  ASSERT_EQ(outbox().size(), 1U) << "the first is settled";
  EXPECT_EQ(outbox().begin()->second.served().blob(), "outcome of lookup");
  receive(to_serve(1, 1, "publish"));
  EXPECT_THAT(calls_, ElementsAre("publish", "lookup"));
}

TEST_F(FolderExchangeTest, DataOfARank_IsAnsweredWhenItIsThere) {
  receive(to_serve(1, 1, ""));
  receive(to_serve(1, 1, ""));
  EXPECT_THAT(served_, ElementsAre(7));
  EXPECT_THAT(outbox(), IsEmpty());
  answer_(true, "card");
  loop();
  ASSERT_EQ(outbox().size(), 1U);
  EXPECT_TRUE(outbox().begin()->second.served().found());
  EXPECT_EQ(outbox().begin()->second.served().blob(), "card");
}

// The last answer to each of them stays.
TEST_F(FolderExchangeTest, TenThousandPods_AreAnswered) {
  constexpr uint32_t kPods = 10'000;
  for (uint32_t asker = 0; asker < kPods; ++asker) {
    wire::ExchangeDown down = to_serve(1, 0, "look up");
    down.mutable_serve()->set_asker(asker);
    receive(down);
  }
  EXPECT_EQ(said_, "");
  EXPECT_EQ(outbox().size(), kPods);
}

TEST_F(FolderExchangeTest, AnAbort_GoesBothWays) {
  exchange_->abort(42, "why");
  EXPECT_EQ(outbox().begin()->second.abort().status(), 42);
  wire::ExchangeDown down;
  down.mutable_abort()->set_status(9);
  down.mutable_abort()->set_reason("theirs");
  receive(down);
  EXPECT_EQ(aborted_, "9 theirs");
}

TEST_F(FolderExchangeTest, TheEndOfARank_StaysSaid_AndThatItWasHeardIsTold) {
  exchange_->rank_ended(2, 9);
  wire::ExchangeDown down;
  down.mutable_end_heard()->set_rank(2);
  receive(down);
  EXPECT_THAT(heard_, ElementsAre(2));
  const std::map<uint64_t, wire::ExchangeUp> kept = outbox();
  ASSERT_EQ(kept.size(), 1U);
  EXPECT_EQ(kept.begin()->second.rank_ended().rank(), 2U);
}

TEST_F(FolderExchangeTest, WhatIsNoMessage_IsSaidAndRemoved) {
  std::ofstream(in() / "1") << "\xff\xff\xff";
  std::ofstream(in() / ".agent") << "unfinished";
  exchange_->read_inbox();
  EXPECT_THAT(said_, HasSubstr("in/1 is no message"));
  EXPECT_FALSE(fs::exists(in() / "1"));
  EXPECT_TRUE(fs::exists(in() / ".agent"));
}

TEST_F(FolderExchangeTest, ACollective_Fails_WhenItsPartCannotBeWritten) {
  fs::remove(out());
  gather("lost");
  EXPECT_THAT(answers_, ElementsAre("-1 "));
  EXPECT_THAT(said_, HasSubstr("No such file"));
}

}  // namespace
}  // namespace fermata::pod
