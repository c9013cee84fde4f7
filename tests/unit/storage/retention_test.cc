#include "storage/retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <random>
#include <set>

#include "storage/flatten.h"
#include "storage/image.h"
#include "storage/manifest.h"
#include "storage/set_folders.h"
#include "storage/set_lock.h"
#include "tests/support/scratch_folder.h"

namespace fermata::storage {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<uint64_t> removed(const std::vector<SetStanding>& sets, uint32_t keep,
                              const std::vector<Crid>& in_use = {}) {
  std::vector<uint64_t> numbers;
  for (const Crid crid : sets_to_remove(sets, keep, in_use)) numbers.push_back(crid.value);
  return numbers;
}

TEST(Retention, KeepsTheNewest_RemovesTheOthersNewestFirst) {
  const std::vector<SetStanding> sets{{{1}, {}}, {{4}, {}}, {{2}, {}}, {{9}, {}}};
  EXPECT_THAT(removed(sets, 2), ElementsAre(2, 1));
  EXPECT_THAT(removed(sets, 1), ElementsAre(4, 2, 1));
  EXPECT_THAT(removed(sets, 4), IsEmpty());
  EXPECT_THAT(removed(sets, 100), IsEmpty());
  EXPECT_THAT(removed({}, 2), IsEmpty());
}

TEST(Retention, ZeroKeepsAll) { EXPECT_THAT(removed({{{1}, {}}, {{2}, {}}}, 0), IsEmpty()); }

TEST(Retention, KeepsWhatAKeptSetIsBuiltOn) {
  // 1 <- 2 <- 3 and 4 <- 5, where 4 is full.
  const std::vector<SetStanding> sets{{{1}, {}}, {{2}, {1}}, {{3}, {2}}, {{4}, {}}, {{5}, {4}}};
  EXPECT_THAT(removed(sets, 1), ElementsAre(3, 2, 1));
  EXPECT_THAT(removed(sets, 2), ElementsAre(3, 2, 1));
  EXPECT_THAT(removed(sets, 3), IsEmpty());
}

TEST(Retention, ADamagedSetDoesNotCount) {
  EXPECT_THAT(removed({{{1}, {}}, {{2}, {}}, {{3}, {}, false}}, 1), ElementsAre(1));
  // Nor does one whose parent is damaged, or gone.
  EXPECT_THAT(removed({{{1}, {}}, {{2}, {}, false}, {{3}, {2}}}, 1), IsEmpty());
  EXPECT_THAT(removed({{{1}, {}}, {{3}, {2}}}, 1), IsEmpty());
}

TEST(Retention, WithoutAGoodSetNothingIsRemoved) {
  EXPECT_THAT(removed({{{1}, {}, false}, {{2}, {}, false}, {{3}, {1}}}, 1), IsEmpty());
}

TEST(Retention, WhatIsInUseStaysWithItsAncestors) {
  const std::vector<SetStanding> sets{{{1}, {}}, {{2}, {1}}, {{3}, {}}, {{4}, {}}};
  EXPECT_THAT(removed(sets, 1, {{2}}), ElementsAre(3));
}

TEST(Retention, AManifestThatNamesALaterParentEndsTheChain) {
  EXPECT_THAT(removed({{{1}, {2}}, {{2}, {1}}, {{3}, {3}}}, 1), IsEmpty());
}

TEST(Retention, NeverRemovesAnAncestorOrTheOnlyGoodSet_InRandomChains) {
  std::mt19937 dice(20261121);
  for (int round = 0; round < 2000; ++round) {
    std::vector<SetStanding> sets;
    const uint64_t count = 1 + dice() % 12;
    for (uint64_t crid = 1; crid <= count; ++crid) {
      sets.push_back({{crid}, {crid > 1 && dice() % 3 != 0 ? crid - 1 : 0}, dice() % 4 != 0});
    }
    const auto keep = static_cast<uint32_t>(1 + dice() % 4);
    std::set<uint64_t> left;
    for (const SetStanding& set : sets) left.insert(set.crid.value);
    const auto good = [&](uint64_t crid) {
      for (; crid != 0; crid = sets[crid - 1].parent.value) {
        if (left.count(crid) == 0 || !sets[crid - 1].whole) return false;
      }
      return true;
    };
    const auto good_ones = [&] { return std::count_if(left.begin(), left.end(), good); };
    const auto before = good_ones();
    for (const uint64_t crid : removed(sets, keep)) {
      left.erase(crid);
      // At no moment is a set without the one it is built on.
      for (const uint64_t child : left) {
        const uint64_t parent = sets[child - 1].parent.value;
        EXPECT_NE(parent, crid) << "round " << round;
      }
      EXPECT_GE(good_ones(), std::min<int64_t>(before, keep)) << "round " << round;
    }
  }
}

class Prune : public testing::Test {
 protected:
  Prune() { ledger_.emplace(*Ledger::open_or_create(dir())); }

  fs::path dir() const { return scratch_.path(); }
  fs::path folder(Crid crid) const { return set_folder(dir(), kJob, crid); }

  Crid commit(Crid parent = {}) {
    const Crid crid = *ledger_->allot_crid(kJob, "alice", "lmp", parent);
    const fs::path made = *make_set_folder(dir(), kJob, crid);
    std::ofstream(made / "pod-0.h5") << std::string(100, 'x');
    Manifest manifest;
    manifest.crid = crid;
    manifest.parent = parent;
    manifest.job = kJob;
    manifest.command = {"lmp"};
    manifest.user = "alice";
    manifest.time = utc_now();
    manifest.images.push_back({0, "n0", "pod-0.h5", 100, 64, std::string(32, 'a')});
    manifest.result = "resumed";
    EXPECT_TRUE(write_manifest(made, manifest));
    EXPECT_TRUE(ledger_->commit(manifest));
    return crid;
  }
  std::vector<uint64_t> there() const {
    std::vector<uint64_t> there;
    const auto folders = *set_folders(dir());
    for (const SetFolder& set : folders) there.push_back(set.crid.value);
    return there;
  }

  static constexpr JobStep kJob{12, 0};
  ScratchFolder scratch_;
  std::optional<Ledger> ledger_;
};

TEST_F(Prune, RemovesFilesAndTellsTheLedger) {
  for (int i = 0; i < 4; ++i) commit();
  const auto would = prune(dir(), kJob, 2, /*dry_run=*/true);
  ASSERT_TRUE(would) << would.error().message();
  EXPECT_EQ(would->removed.size(), 2U);
  EXPECT_EQ(would->bytes, 200U);
  EXPECT_THAT(there(), ElementsAre(1, 2, 3, 4));

  const auto pruned = prune(dir(), kJob, 2, false);
  ASSERT_TRUE(pruned) << pruned.error().message();
  EXPECT_EQ(pruned->removed.front().crid.value, 2U);
  EXPECT_EQ(pruned->kept.size(), 2U);
  EXPECT_THAT(there(), ElementsAre(3, 4));
  EXPECT_EQ(ledger_->find({1})->state, SetState::kDeleted);
  EXPECT_EQ(ledger_->find({3})->state, SetState::kCommitted);
  EXPECT_TRUE(prune(dir(), kJob, 2, false)->removed.empty());
}

TEST_F(Prune, ImagesThatAreMissingOrShortMakeASetNoGoodOne) {
  commit();
  const Crid gone = commit();
  const Crid cut_short = commit();
  fs::remove(folder(gone) / "pod-0.h5");
  fs::resize_file(folder(cut_short) / "pod-0.h5", 99);
  EXPECT_TRUE(prune(dir(), kJob, 1, false)->removed.empty());
  EXPECT_THAT(there(), ElementsAre(1, 2, 3));
  commit();
  EXPECT_EQ(prune(dir(), kJob, 1, false)->removed.size(), 3U);
  EXPECT_THAT(there(), ElementsAre(4));
}

TEST_F(Prune, TheParentOfAnAttemptUnderWayStays) {
  const Crid parent = commit();
  commit();
  commit();
  ASSERT_TRUE(ledger_->allot_crid(kJob, "alice", "lmp", parent));
  EXPECT_EQ(prune(dir(), kJob, 1, false)->removed.size(), 1U);
  EXPECT_THAT(there(), ElementsAre(1, 3));
}

TEST_F(Prune, ASetThatIsWorkedOnStays_WithWhatItIsBuiltOn) {
  const Crid parent = commit();
  const Crid worked_on = commit(parent);
  commit();
  commit();
  {
    const Result<UniqueFd> lock = lock_set(folder(worked_on));
    ASSERT_TRUE(lock) << lock.error().message();
    EXPECT_EQ(lock_set(folder(worked_on)).error().code(), Code::kBusy);
    const auto would = prune(dir(), kJob, 1, /*dry_run=*/true);
    ASSERT_TRUE(would) << would.error().message();
    EXPECT_EQ(would->removed.size(), 1U);
    EXPECT_EQ(prune(dir(), kJob, 1, false)->removed.size(), 1U);
    EXPECT_THAT(there(), ElementsAre(1, 2, 4));
    EXPECT_EQ(ledger_->find(worked_on)->state, SetState::kCommitted);
  }
  EXPECT_EQ(prune(dir(), kJob, 1, false)->removed.size(), 2U);
  EXPECT_THAT(there(), ElementsAre(4));
}

TEST_F(Prune, ASetThatIsReadStays_AndIsWorkedOnByNobody) {
  const Crid parent = commit();
  const Crid is_read = commit(parent);
  commit();
  {
    const Result<UniqueFd> first = lock_set_to_read(folder(is_read));
    ASSERT_TRUE(first) << first.error().message();
    const Result<UniqueFd> second = lock_set_to_read(folder(is_read));
    ASSERT_TRUE(second) << second.error().message();
    EXPECT_EQ(lock_set(folder(is_read)).error().code(), Code::kBusy);
    EXPECT_EQ(flatten_set(folder(is_read), 1, Compression::kNone).error().code(), Code::kBusy);
    const auto pruned = prune(dir(), kJob, 1, false);
    ASSERT_TRUE(pruned) << pruned.error().message();
    EXPECT_THAT(there(), ElementsAre(1, 2, 3));
  }
  const Result<UniqueFd> work = lock_set(folder(is_read));
  ASSERT_TRUE(work) << work.error().message();
  EXPECT_EQ(lock_set_to_read(folder(is_read)).error().code(), Code::kBusy);
}

TEST_F(Prune, FinishesARemovalThatWasCutShort) {
  const Crid first = commit();
  commit();
  ASSERT_TRUE(ledger_->mark_deleted(first));
  ASSERT_TRUE(prune(dir(), kJob, 2, true));
  EXPECT_THAT(there(), ElementsAre(1, 2));
  ASSERT_TRUE(prune(dir(), kJob, 2, false));
  EXPECT_THAT(there(), ElementsAre(2));
}

}  // namespace
}  // namespace fermata::storage
