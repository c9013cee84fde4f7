// The coordinator on a real checkpoint folder, with agents that only write small files.
#include "coord/coordinator.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <fstream>

#include "common/try_again.h"
#include "tests/support/scratch_folder.h"

namespace fermata::coord {
namespace {

namespace fs = std::filesystem;
using storage::SetState;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

/// Writes its image as a real agent does: a .part file, renamed at the commit.
class FileAgent final : public Agent {
 public:
  std::optional<Phase> fails_in;
  uint32_t not_now = 0;  ///< captures still to be refused for what passes
  bool in_each_capture_another = false;
  bool ended = false;
  bool incremental = false;   ///< the image builds on the parent that is offered
  std::vector<Crid> offered;  ///< by set
  std::string track;          ///< last asked for
  uint64_t image_bytes = 5;
  std::vector<image::OutsideConnection> connections;

  std::string node() const override { return "n0"; }
  void begin(Phase phase, const SetOrder& order, Time) override {
    phase_ = phase;
    if (phase == Phase::kPrepare) {
      offered.push_back(order.parent);
      track = order.track;
    }
    if (phase == Phase::kPrepare) std::ofstream(order.folder / "pod-0.h5.part") << "image";
    if (phase == Phase::kCommit) {
      fs::rename(order.folder / "pod-0.h5.part", order.folder / "pod-0.h5");
    }
  }
  Result<AgentReport> await(Time) override {
    if (phase_ == Phase::kCapture && not_now > 0) {
      --not_now;
      const std::string which = in_each_capture_another ? std::to_string(not_now) + ": " : "";
      return failure(Code::kBusy, fmt::format("{}a connection is being made{}", which, kTryAgain));
    }
    if (fails_in == phase_) return failure(Code::kCannotHold, "process 9 holds a lease");
    AgentReport report;
    report.memory_bytes = 3;
    report.image_bytes = image_bytes;
    if (incremental) report.parent = offered.back();
    report.image = "pod-0.h5";
    report.digest = std::string(32, 'a');
    report.time = "2026-11-20T21:00:00Z";
    report.stand_still = std::chrono::milliseconds(4);
    report.held = std::chrono::milliseconds(7);
    report.connections = connections;
    report.took = std::chrono::milliseconds(6);
    return report;
  }
  void roll_back(const SetOrder&) override {}
  void await_roll_back(Time) override {}
  void end_job(const SetOrder&) override { ended = true; }
  Status await_end(Time) override { return Status::ok(); }

 private:
  Phase phase_ = Phase::kPrepare;
};

std::string address(const char* host, uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  inet_pton(AF_INET, host, &address.sin_addr);
  return {reinterpret_cast<const char*>(&address), sizeof address};
}

class CoordinatorTest : public testing::Test {
 protected:
  CoordinatorTest() : owner_(*credentials_of_caller()) {
    job_.job = JobStep{12, 0};
    job_.ranks = 4;
    job_.command = {"lmp", "-in", "in put"};
    job_.track = "auto";
    job_.owner = owner_;
  }

  Coordinator coordinator() const { return Coordinator(dir(), owner_); }
  fs::path dir() const { return scratch_.path() / "sets"; }
  TriedSet take(Coordinator& coordinator, bool end_job = false) {
    const std::array<Agent*, 1> agents{&agent_};
    return coordinator.take_set(job_, agents, end_job);
  }
  std::vector<storage::LedgerSet> sets() const { return *storage::Ledger::open(dir())->sets(); }

  ScratchFolder scratch_;
  Credentials owner_;
  JobDescription job_;
  FileAgent agent_;
};

TEST_F(CoordinatorTest, ManifestTellsHowLongTheRequestWaited) {
  Coordinator coordinator = this->coordinator();
  job_.requested = Clock::steady().now() - std::chrono::seconds(3);
  const TriedSet tried = take(coordinator);
  ASSERT_TRUE(tried.outcome.committed()) << tried.outcome.status.message();
  EXPECT_GE(tried.manifest.request_ms, 3000);
}

TEST_F(CoordinatorTest, CommittedSetHasManifestAndLedgerEntry) {
  Coordinator coordinator = this->coordinator();
  const TriedSet tried = take(coordinator);
  ASSERT_TRUE(tried.outcome.committed()) << tried.outcome.status.message();
  EXPECT_EQ(tried.folder, dir() / "12.0" / to_string(tried.crid));
  EXPECT_TRUE(fs::exists(tried.folder / "pod-0.h5"));

  const Result<storage::Manifest> manifest = storage::read_manifest(tried.folder);
  ASSERT_TRUE(manifest) << manifest.error().message();
  EXPECT_EQ(manifest->ranks, 4U);
  EXPECT_EQ(manifest->command, job_.command);
  EXPECT_EQ(manifest->result, "resumed");
  EXPECT_EQ(manifest->stand_still_ms, 4);
  EXPECT_EQ(manifest->held_ms, 7);
  EXPECT_EQ(manifest->images.front().held_ms, 7);
  EXPECT_GT(manifest->request_ms, 0);
  EXPECT_EQ(manifest->time, "2026-11-20T21:00:00Z");
  EXPECT_EQ(manifest->phases_ms.size(), kPhases.size());
  EXPECT_EQ(manifest->images[0].phases_ms, std::vector<double>(kPhases.size(), 6));
  EXPECT_EQ(manifest->images[0].host, "n0");
  EXPECT_EQ(manifest->external_tcp, "refuse");
  ASSERT_EQ(sets().size(), 1U);
  EXPECT_EQ(sets()[0].state, SetState::kCommitted);
  EXPECT_FALSE(agent_.ended);
}

TEST_F(CoordinatorTest, SetThatEndsTheJobSaysSo) {
  Coordinator coordinator = this->coordinator();
  EXPECT_EQ(take(coordinator, true).manifest.result, "killed");
  EXPECT_TRUE(agent_.ended);
}

TEST_F(CoordinatorTest, FailedSetLeavesNoFiles_ButItsReason) {
  Coordinator coordinator = this->coordinator();
  agent_.fails_in = Phase::kCommit;  // the image has its final name already
  const TriedSet tried = take(coordinator, true);
  EXPECT_FALSE(tried.outcome.committed());
  EXPECT_FALSE(agent_.ended);
  EXPECT_FALSE(fs::exists(tried.folder));
  ASSERT_EQ(sets().size(), 1U);
  EXPECT_EQ(sets()[0].state, SetState::kAborted);
  EXPECT_THAT(sets()[0].reason, HasSubstr("commit on n0: process 9 holds a lease"));
}

TEST_F(CoordinatorTest, WhatPassesByItselfIsTriedAgain_UnderACridOfItsOwn) {
  Coordinator coordinator = this->coordinator();
  coordinator.patience().pause = std::chrono::milliseconds(1);
  agent_.not_now = 2;
  const TriedSet tried = take(coordinator);
  EXPECT_TRUE(tried.outcome.committed()) << tried.outcome.status.message();
  EXPECT_EQ(tried.attempts, 3U);
  ASSERT_EQ(sets().size(), 3U);
  EXPECT_EQ(sets()[1].state, SetState::kAborted);
  EXPECT_EQ(sets()[2].crid, tried.crid);
}

TEST_F(CoordinatorTest, PatienceEnds) {
  Coordinator coordinator = this->coordinator();
  coordinator.patience().pause = std::chrono::milliseconds(1);
  coordinator.patience().attempts = 4;
  agent_.not_now = 100;
  const TriedSet tried = take(coordinator);
  EXPECT_EQ(tried.outcome.status.code(), Code::kBusy);
  EXPECT_THAT(tried.outcome.status.message(),
              HasSubstr("being made; try again in a moment (tried 4 times)"));
  EXPECT_EQ(sets().size(), 4U);
  EXPECT_FALSE(fs::exists(tried.folder));
}

TEST_F(CoordinatorTest, WhatStandsInTheWayEachTime_DoesNotPassByItself) {
  Coordinator coordinator = this->coordinator();
  coordinator.patience().pause = std::chrono::milliseconds(10);
  coordinator.patience().attempts = 8;
  coordinator.patience().lasting = std::chrono::milliseconds(30);
  agent_.not_now = 100;
  const Status status = take(coordinator).outcome.status;
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_THAT(status.message(), HasSubstr("being made (so at each of 8 attempts in"));
  EXPECT_THAT(status.message(), Not(HasSubstr("try again")));
  agent_.in_each_capture_another = true;
  EXPECT_EQ(take(coordinator).outcome.status.code(), Code::kBusy);
}

// The client of a new connection can have heard of it before the cut, and its server not.
TEST_F(CoordinatorTest, ConnectionToAHostOfTheJobIsFinalOnlyWhenItStaysAlone) {
  Coordinator coordinator = this->coordinator();
  coordinator.patience().pause = std::chrono::milliseconds(1);
  image::OutsideConnection connection;
  connection.set_local(address("10.0.0.1", 40000));
  connection.set_remote(address("10.0.0.2", 5000));
  connection.set_state("established");
  agent_.connections = {connection};
  job_.own_hosts = {ip_of(connection.local()), ip_of(connection.remote())};
  const TriedSet tried = take(coordinator);
  EXPECT_EQ(tried.outcome.status.code(), Code::kCannotHold);
  EXPECT_EQ(tried.attempts, 2U);
  EXPECT_THAT(tried.outcome.status.message(), HasSubstr("10.0.0.2:5000, which is not of the job"));
}

TEST_F(CoordinatorTest, SetsBuildOnTheLastCommittedOne_AndEveryNthIsFull) {
  Coordinator coordinator = this->coordinator();
  agent_.incremental = true;
  job_.full_every = 3;
  std::vector<TriedSet> tried;
  for (int i = 0; i < 2; ++i) tried.push_back(take(coordinator));
  agent_.fails_in = Phase::kWriteBack;
  EXPECT_FALSE(take(coordinator).outcome.committed());
  agent_.fails_in.reset();
  for (int i = 0; i < 2; ++i) tried.push_back(take(coordinator));
  const Crid first = tried[0].crid;
  const Crid second = tried[1].crid;
  // The attempt that failed was offered the second; so is the next.
  EXPECT_THAT(agent_.offered, ElementsAre(Crid{}, first, second, second, Crid{}));
  EXPECT_EQ(tried[2].manifest.parent, second);
  EXPECT_EQ(tried[2].manifest.chain_sets, 2U);
  EXPECT_EQ(tried[2].manifest.chain_bytes, 10U);
  EXPECT_EQ(tried[3].manifest.parent, Crid{});
  EXPECT_EQ(tried[3].manifest.chain_sets, 0U);
  EXPECT_EQ(sets()[1].parent, first);
}

TEST_F(CoordinatorTest, NoParentIsOffered_WhenAllShallBeFull) {
  Coordinator coordinator = this->coordinator();
  job_.full_every = 1;
  take(coordinator);
  EXPECT_EQ(agent_.track, "none") << "nothing will build on it";
  take(coordinator);
  job_.full_every = 10;
  job_.track = "none";
  take(coordinator);
  EXPECT_THAT(agent_.offered, ElementsAre(Crid{}, Crid{}, Crid{}));
}

TEST_F(CoordinatorTest, ASetIsFull_WhenTheChainHasBecomeDear) {
  Coordinator coordinator = this->coordinator();
  agent_.incremental = true;
  agent_.image_bytes = 200 << 20;  // with a memory of 3 bytes
  for (int i = 0; i < 3; ++i) take(coordinator);
  EXPECT_NE(agent_.offered[1], Crid{});
  EXPECT_EQ(agent_.offered[2], Crid{});
}

TEST_F(CoordinatorTest, AFullImage_HasNoParentHoweverManyWereOffered) {
  Coordinator coordinator = this->coordinator();
  take(coordinator);
  const TriedSet second = take(coordinator);
  EXPECT_NE(agent_.offered[1], Crid{});
  EXPECT_EQ(second.manifest.parent, Crid{});
}

TEST_F(CoordinatorTest, CridsAreNeverReused) {
  Coordinator coordinator = this->coordinator();
  agent_.fails_in = Phase::kCapture;
  const Crid first = take(coordinator).crid;
  agent_.fails_in.reset();
  const Crid second = take(coordinator).crid;
  EXPECT_LT(first, second);
}

/// The cluster's counter; somebody else takes a number of the folder first, once.
class ClusterNumbers final : public CridSource {
 public:
  explicit ClusterNumbers(fs::path dir) : dir_(std::move(dir)) {}
  uint64_t last = 0;
  bool intrude = false;
  Result<Crid> allot_crid(Crid at_least) override {
    last = std::max(last + 1, at_least.value);
    if (std::exchange(intrude, false)) {
      const Status claimed =
          storage::Ledger::open(dir_)->claim_crid({last + 5}, {99, 0}, "ada", "other");
      EXPECT_TRUE(claimed);
    }
    return Crid{last};
  }

 private:
  fs::path dir_;
};

TEST_F(CoordinatorTest, CridIsAboveTheFoldersAndTheClusters) {
  ClusterNumbers numbers(dir());
  numbers.last = 100;
  Coordinator of_cluster(dir(), owner_, &numbers);
  EXPECT_EQ(take(of_cluster).crid.value, 101U);
  Coordinator of_folder = coordinator();
  EXPECT_EQ(take(of_folder).crid.value, 102U);
  EXPECT_EQ(take(of_cluster).crid.value, 103U);
  numbers.intrude = true;
  EXPECT_EQ(take(of_cluster).crid.value, 110U);
}

TEST_F(CoordinatorTest, ConnectionThatLeavesTheJobEndsTheAttempt_UnlessItMayBeReset) {
  Coordinator coordinator = this->coordinator();
  agent_.connections.emplace_back().set_holder("process 12 (lmp), fd 7");
  const TriedSet refused = take(coordinator);
  EXPECT_EQ(refused.outcome.status.code(), Code::kCannotHold);
  EXPECT_THAT(refused.outcome.status.message(), HasSubstr("process 12 (lmp), fd 7 on n0"));
  EXPECT_FALSE(fs::exists(refused.folder));
  job_.external_tcp = ExternalTcp::kReset;
  EXPECT_EQ(take(coordinator).manifest.external_tcp, "reset");
}

TEST_F(CoordinatorTest, NewestCommittedSetIsChosen) {
  Coordinator coordinator = this->coordinator();
  const Crid first = take(coordinator).crid;
  const Crid second = take(coordinator).crid;
  agent_.fails_in = Phase::kWriteBack;
  const Crid failed = take(coordinator).crid;

  EXPECT_EQ(coordinator.choose(job_.job, std::nullopt)->manifest.crid, second);
  EXPECT_EQ(coordinator.choose(std::nullopt, std::nullopt)->manifest.crid, second);
  EXPECT_EQ(coordinator.choose(std::nullopt, first)->manifest.crid, first);
  const Result<ChosenSet> never = coordinator.choose(std::nullopt, failed);
  ASSERT_FALSE(never);
  EXPECT_EQ(never.error().code(), Code::kNotFound);
  EXPECT_THAT(never.error().message(), HasSubstr("never committed"));
  EXPECT_EQ(coordinator.choose(JobStep{13, 0}, first).error().code(), Code::kUsage);
  EXPECT_EQ(coordinator.choose(JobStep{13, 0}, std::nullopt).error().code(), Code::kNotFound);
  const Result<ChosenSet> unknown = coordinator.choose(std::nullopt, Crid{4711});
  EXPECT_EQ(unknown.error().code(), Code::kNotFound);
  EXPECT_THAT(unknown.error().message(), HasSubstr("4711"));
}

TEST_F(CoordinatorTest, AttemptOfADeadAgentIsRemoved_OrCommittedIfItsManifestStands) {
  Coordinator coordinator = this->coordinator();
  ASSERT_TRUE(coordinator.make_folder());
  storage::Ledger ledger = *storage::Ledger::open(dir());
  const Crid dead = *ledger.allot_crid(job_.job, "ada", "lmp");
  const fs::path dead_folder = *storage::make_set_folder(dir(), job_.job, dead);
  std::ofstream(dead_folder / "pod-0.h5.part") << "half";
  const TriedSet whole = take(coordinator);  // settles the dead one first
  EXPECT_FALSE(fs::exists(dead_folder));
  EXPECT_EQ(ledger.find(dead)->state, SetState::kAborted);

  // Died after the manifest was durable and before the ledger knew.
  const Crid late = *ledger.allot_crid(job_.job, "ada", "lmp");
  const fs::path late_folder = *storage::make_set_folder(dir(), job_.job, late);
  storage::Manifest manifest = whole.manifest;
  manifest.crid = late;
  ASSERT_TRUE(storage::write_manifest(late_folder, manifest));
  // The ledger may not be writable when it is needed most: the manifest is enough.
  EXPECT_EQ(coordinator.choose(job_.job, std::nullopt)->manifest.crid, late);
  EXPECT_EQ(coordinator.choose(std::nullopt, std::nullopt)->manifest.crid, late);
  EXPECT_EQ(ledger.find(late)->state, SetState::kAttempt);
  ASSERT_TRUE(coordinator.settle_attempts(job_.job));
  EXPECT_EQ(ledger.find(late)->state, SetState::kCommitted);
  EXPECT_EQ(coordinator.choose(job_.job, std::nullopt)->manifest.crid, late);
}

TEST_F(CoordinatorTest, FolderThatVanishedIsNotMadeAnew) {
  {
    Coordinator first = coordinator();
    ASSERT_TRUE(take(first).outcome.committed());
  }
  Coordinator coordinator = this->coordinator();
  fs::remove_all(dir());
  const TriedSet gone = take(coordinator);
  EXPECT_EQ(gone.outcome.status.code(), Code::kStorage);
  EXPECT_THAT(gone.outcome.status.message(), HasSubstr(dir().string()));
  EXPECT_FALSE(fs::exists(dir()));

  // The mount point of what was unmounted: its CRIDs must not be given again by a new ledger.
  fs::create_directory(dir());
  EXPECT_FALSE(take(coordinator).outcome.committed());
  EXPECT_TRUE(fs::is_empty(dir()));
}

TEST_F(CoordinatorTest, JobNumbersFollowTheFolder) {
  EXPECT_EQ(*coordinator().next_job(5), 5U) << "no folder: the machine's counter alone";
  ASSERT_TRUE(coordinator().make_folder());
  EXPECT_EQ(*coordinator().next_job(5), 5U);
  EXPECT_EQ(*coordinator().next_job(2), 6U);
}

TEST(DisplayCommand, QuotesAsAShellWould) {
  EXPECT_EQ(display_command({"lmp", "-in", "in put", "it's", ""}),
            R"(lmp -in 'in put' 'it'\''s' '')");
}

}  // namespace
}  // namespace fermata::coord
