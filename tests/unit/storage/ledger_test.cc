#include "storage/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "storage/image.h"
#include "storage/manifest.h"
#include "storage/sqlite.h"
#include "tests/unit/storage/sample_image.h"

namespace fermata::storage {
namespace {

using ::testing::HasSubstr;

Manifest manifest_of(Crid crid, JobStep job) {
  Manifest manifest;
  manifest.crid = crid;
  manifest.job = job;
  manifest.command = {"lmp", "-in", "in.melt"};
  manifest.user = "alice";
  manifest.time = utc_now();
  manifest.images.push_back({0, "node-0", "pod-0.h5", 100, 64, std::string(32, 'a')});
  manifest.stand_still_ms = 12.5;
  manifest.result = "resumed";
  return manifest;
}

Crid commit_set(const std::filesystem::path& dir, Ledger& ledger, JobStep job) {
  const Crid crid = *ledger.allot_crid(job, "alice", "lmp");
  const auto folder = *make_set_folder(dir, job, crid);
  const Manifest manifest = manifest_of(crid, job);
  EXPECT_TRUE(write_manifest(folder, manifest));
  EXPECT_TRUE(ledger.commit(manifest));
  return crid;
}

TEST(Ledger, TellsAttemptsFromSets) {
  const ScratchFolder folder;
  auto ledger = Ledger::open_or_create(folder.path());
  ASSERT_TRUE(ledger) << ledger.error().message();
  EXPECT_EQ(ledger->latest_committed().error().code(), Code::kNotFound);
  const JobStep job{1234, 0};
  const Crid first = commit_set(folder.path(), *ledger, job);
  const Crid failed = *ledger->allot_crid(job, "alice", "lmp", first);
  const Crid other = commit_set(folder.path(), *ledger, {1235, 0});
  EXPECT_EQ(first.value, 1U);
  EXPECT_EQ(failed.value, 2U);
  ASSERT_EQ(ledger->attempts(job)->size(), 1U);
  EXPECT_EQ(ledger->attempts(job)->front().crid, failed);
  EXPECT_TRUE(ledger->attempts({1235, 0})->empty());
  ASSERT_TRUE(ledger->abort(failed, "disk full"));
  EXPECT_TRUE(ledger->attempts(job)->empty());
  EXPECT_EQ(ledger->abort(failed, "again").code(), Code::kNotFound);
  EXPECT_EQ(ledger->latest_committed(job)->crid, first);
  EXPECT_EQ(ledger->latest_committed()->crid, other);
  const auto found = ledger->find(failed);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->state, SetState::kAborted);
  EXPECT_EQ(found->reason, "disk full");
  EXPECT_EQ(found->parent, first);
  EXPECT_EQ(ledger->find(first)->command, "lmp -in in.melt");
  EXPECT_EQ(ledger->find(first)->stand_still_ms, 12.5);
  EXPECT_EQ(ledger->sets(job)->size(), 2U);
  EXPECT_EQ(ledger->sets()->size(), 3U);
  const auto missing = ledger->find({77});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
  EXPECT_THAT(missing.error().message(), HasSubstr("77"));
  EXPECT_FALSE(ledger->find({UINT64_MAX}));
  ASSERT_TRUE(ledger->mark_deleted(first));
  EXPECT_FALSE(ledger->latest_committed(job));
}

TEST(Ledger, NeverGivesANumberTwice_AcrossOpenings) {
  const ScratchFolder folder;
  uint64_t last = 0;
  for (int i = 0; i < 5; ++i) {
    auto ledger = Ledger::open_or_create(folder.path());
    ASSERT_TRUE(ledger);
    const auto crid = ledger->allot_crid({1, 0}, "u", "c");
    ASSERT_TRUE(crid);
    EXPECT_GT(crid->value, last);
    last = crid->value;
    ASSERT_TRUE(ledger->mark_deleted(*crid));
  }
}

TEST(Ledger, TakesANumberFromOutside_OnlyAboveItsOwn) {
  const ScratchFolder folder;
  auto ledger = Ledger::open_or_create(folder.path());
  ASSERT_TRUE(ledger) << ledger.error().message();
  ASSERT_TRUE(ledger->claim_crid({40}, {1, 0}, "alice", "lmp"));
  EXPECT_EQ(ledger->find({40})->state, SetState::kAttempt);
  EXPECT_EQ(ledger->claim_crid({40}, {2, 0}, "alice", "lmp").code(), Code::kConflict);
  EXPECT_EQ(ledger->claim_crid({39}, {2, 0}, "alice", "lmp").code(), Code::kConflict);
  EXPECT_EQ(ledger->next_crid()->value, 41U);
  EXPECT_EQ(ledger->allot_crid({1, 0}, "alice", "lmp")->value, 41U);
}

TEST(Ledger, NumbersJobs_FromTheMinimumOn) {
  const ScratchFolder folder;
  auto ledger = Ledger::open_or_create(folder.path());
  ASSERT_TRUE(ledger);
  EXPECT_EQ(*ledger->allot_job(1), 1U);
  EXPECT_EQ(*ledger->allot_job(1), 2U);
  EXPECT_EQ(*ledger->allot_job(100), 100U);
  EXPECT_EQ(*ledger->allot_job(7), 101U);
  ASSERT_TRUE(ledger->allot_crid({500, 0}, "u", "c"));
  EXPECT_EQ(*ledger->allot_job(1), 501U);
}

TEST(Ledger, ReadersAreTold_WhenThereIsNone) {
  const ScratchFolder folder;
  EXPECT_EQ(Ledger::open(folder.path()).error().code(), Code::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(folder / "ledger.sqlite"));
}

TEST(Ledger, NamesTheRemedy_WhenItIsMissingOrDamaged) {
  const ScratchFolder folder;
  const auto file = folder / "ledger.sqlite";
  {
    auto ledger = Ledger::open_or_create(folder.path());
    ASSERT_TRUE(ledger);
    commit_set(folder.path(), *ledger, {1, 0});
  }
  const auto expect_remedy = [&] {
    for (const bool create : {false, true}) {
      auto ledger = create ? Ledger::open_or_create(folder.path()) : Ledger::open(folder.path());
      const Status status = ledger ? ledger->allot_crid({1, 0}, "u", "c").error() : ledger.error();
      EXPECT_EQ(status.code(), Code::kDamaged) << status.message();
      EXPECT_THAT(status.message(), HasSubstr("fermata ls --rebuild"));
    }
  };
  std::filesystem::remove(file);
  expect_remedy();
  std::ofstream(file) << "";
  expect_remedy();
  std::ofstream(file) << "this is no database, but long enough to be taken for one"
                      << std::string(9999, 'x');
  expect_remedy();
  const auto rebuilt = Ledger::rebuild(folder.path());
  ASSERT_TRUE(rebuilt) << rebuilt.error().message();
  auto ledger = Ledger::open(folder.path());
  ASSERT_TRUE(ledger);
  EXPECT_EQ(ledger->latest_committed()->crid.value, 1U);
}

TEST(Ledger, IsRebuilt_FromManifestsAndFolders) {
  const ScratchFolder folder;
  Crid highest;
  {
    auto ledger = Ledger::open_or_create(folder.path());
    ASSERT_TRUE(ledger);
    for (int i = 0; i < 3; ++i) commit_set(folder.path(), *ledger, {20, 0});
    const Crid damaged = commit_set(folder.path(), *ledger, {20, 0});
    std::ofstream(set_folder(folder.path(), {20, 0}, damaged) / "set.json") << "{";
    highest = {damaged.value + 5};
    std::filesystem::create_directories(set_folder(folder.path(), {33, 2}, highest));  // a leftover
  }
  std::filesystem::remove(folder / "ledger.sqlite");
  const auto rebuilt = Ledger::rebuild(folder.path());
  ASSERT_TRUE(rebuilt) << rebuilt.error().message();
  EXPECT_EQ(rebuilt->sets, 3U);
  ASSERT_EQ(rebuilt->problems.size(), 1U);
  EXPECT_THAT(rebuilt->problems[0], HasSubstr("set.json"));
  auto ledger = Ledger::open(folder.path());
  ASSERT_TRUE(ledger);
  EXPECT_EQ(ledger->sets()->size(), 3U);
  EXPECT_EQ(ledger->latest_committed()->crid.value, 3U);
  EXPECT_GT(ledger->allot_crid({20, 0}, "u", "c")->value, highest.value);
  EXPECT_EQ(*ledger->allot_job(1), 34U);
}

// A ledger with a write-ahead log has its index mapped: whoever cut that file short ended root's
// coordinator with SIGBUS.
TEST(Ledger, WithAWriteAheadLog_IsRefused_AndNothingOfItIsMapped) {
  const ScratchFolder dir;
  {
    Ledger ledger = *Ledger::open_or_create(dir.path());
    commit_set(dir.path(), ledger, {3, 0});
  }
  const std::filesystem::path file = dir / "ledger.sqlite";
  sqlite3* raw = nullptr;
  ASSERT_EQ(sqlite3_open(file.c_str(), &raw), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(raw, "PRAGMA journal_mode=WAL", nullptr, nullptr, nullptr), SQLITE_OK);
  ASSERT_EQ(sqlite3_close(raw), SQLITE_OK);
  const Result<Ledger> ledger = Ledger::open(dir.path());
  ASSERT_FALSE(ledger);
  EXPECT_EQ(ledger.error().code(), Code::kDamaged);
  EXPECT_THAT(ledger.error().message(), HasSubstr("ls --rebuild"));
  EXPECT_FALSE(std::filesystem::exists(dir / "ledger.sqlite-shm"));
  ASSERT_TRUE(Ledger::rebuild(dir.path()));
  EXPECT_TRUE(Ledger::open(dir.path())->latest_committed({{3, 0}}));
}

// Its counters are its user's to write; where they end, all CRIDs would be the same.
TEST(Ledger, CountersNobodyCanHaveReached_AreDamage_AndMendedByARebuild) {
  const ScratchFolder dir;
  {
    Ledger ledger = *Ledger::open_or_create(dir.path());
    commit_set(dir.path(), ledger, {3, 0});
  }
  for (const char* value : {"9223372036854775806", "4611686018427387904", "'many'", "1e30"}) {
    SCOPED_TRACE(value);
    const std::filesystem::path file = dir / "ledger.sqlite";
    Database db = *Database::open(file, Database::Mode::kExisting);
    ASSERT_TRUE(db.run((std::string("UPDATE counters SET value=") + value).c_str()));
    if (*value != '\'') {
      Ledger ledger = *Ledger::open(dir.path());
      EXPECT_EQ(ledger.next_crid().error().code(), Code::kDamaged);
      EXPECT_EQ(ledger.allot_job(1).error().code(), Code::kDamaged);
    }
    ASSERT_TRUE(Ledger::rebuild(dir.path()));
    Ledger ledger = *Ledger::open(dir.path());
    const Result<Crid> next = ledger.next_crid();
    ASSERT_TRUE(next) << next.error().message();
    EXPECT_GT(next->value, 1U);
    EXPECT_LT(next->value, 1'000'000U);
    EXPECT_LT(*ledger.allot_job(1), 1'000'000U);
  }
}

TEST(Ledger, KeepsItsCounter_WhenRebuiltWhole) {
  const ScratchFolder folder;
  {
    auto ledger = Ledger::open_or_create(folder.path());
    ASSERT_TRUE(ledger);
    commit_set(folder.path(), *ledger, {20, 0});
    const Crid deleted = commit_set(folder.path(), *ledger, {20, 0});
    std::filesystem::remove_all(set_folder(folder.path(), {20, 0}, deleted));
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(ledger->allot_crid({20, 0}, "u", "c"));
  }
  const auto rebuilt = Ledger::rebuild(folder.path());
  ASSERT_TRUE(rebuilt) << rebuilt.error().message();
  EXPECT_EQ(rebuilt->sets, 1U);
  auto ledger = Ledger::open(folder.path());
  ASSERT_TRUE(ledger);
  EXPECT_EQ(ledger->find({2})->state, SetState::kDeleted);
  EXPECT_EQ(ledger->allot_crid({20, 0}, "u", "c")->value, 53U);
}

TEST(Ledger, NeverCrashes_WhenBitsAreFlipped) {
  const ScratchFolder folder;
  const auto file = folder / "ledger.sqlite";
  {
    auto ledger = Ledger::open_or_create(folder.path());
    ASSERT_TRUE(ledger);
    for (int i = 0; i < 20; ++i) commit_set(folder.path(), *ledger, {20, 0});
  }
  std::filesystem::copy_file(file, folder / "good");
  std::mt19937 random(7);
  for (int i = 0; i < 60; ++i) {
    std::filesystem::copy_file(folder / "good", file,
                               std::filesystem::copy_options::overwrite_existing);
    {
      std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
      const auto size = static_cast<unsigned>(std::filesystem::file_size(file));
      const auto at = static_cast<std::streamoff>(i < 20 ? random() % 100 : random() % size);
      bytes.seekg(at);
      const char byte = static_cast<char>(bytes.get() ^ (1 << random() % 8));
      bytes.seekp(at);
      bytes.put(byte);
    }
    if (auto ledger = Ledger::open(folder.path())) {
      if (auto sets = ledger->sets(); !sets) {
        EXPECT_EQ(sets.error().code(), Code::kDamaged) << sets.error().message();
      }
    }
    const auto rebuilt = Ledger::rebuild(folder.path());
    if (!rebuilt) {  // the version of the tables became a higher one: not ours to mend
      EXPECT_EQ(rebuilt.error().code(), Code::kUnsupported) << rebuilt.error().message();
      continue;
    }
    EXPECT_EQ(rebuilt->sets, 20U);
    auto ledger = Ledger::open(folder.path());
    ASSERT_TRUE(ledger) << ledger.error().message();
    const auto latest = ledger->latest_committed();
    ASSERT_TRUE(latest) << latest.error().message();
    EXPECT_EQ(latest->crid.value, 20U);
    EXPECT_GT(ledger->allot_crid({20, 0}, "u", "c")->value, 20U);
  }
}

// A child that allots CRIDs as fast as it can and writes each to a pipe once it has it.
pid_t start_allotting(const std::filesystem::path& dir, int out) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  for (;;) {
    auto ledger = Ledger::open_or_create(dir);
    if (!ledger) ::_exit(1);
    for (int i = 0; i < 10; ++i) {
      const auto crid = ledger->allot_crid({1, 0}, "u", "c");
      if (!crid) ::_exit(2);
      if (::write(out, &crid->value, sizeof crid->value) != sizeof crid->value) ::_exit(3);
    }
  }
}

TEST(Ledger, GivesNoCridTwice_UnderTwoProcessesKilledAnywhere) {
  const ScratchFolder folder;
  std::set<uint64_t> given;
  std::mt19937 random(3);
  uint64_t highest = 0;
  for (int round = 0; round < 15; ++round) {
    int fds[2];
    ASSERT_EQ(::pipe(fds), 0);
    const pid_t children[2] = {start_allotting(folder.path(), fds[1]),
                               start_allotting(folder.path(), fds[1])};
    ::close(fds[1]);
    uint64_t crid = 0;
    uint64_t highest_now = highest;
    const auto take = [&] {
      if (::read(fds[0], &crid, sizeof crid) != sizeof crid) return false;
      EXPECT_TRUE(given.insert(crid).second) << crid << " was given twice";
      EXPECT_GT(crid, highest) << "lower than those of earlier rounds";
      highest_now = std::max(highest_now, crid);
      return true;
    };
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(take());
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 60));
    for (const pid_t child : children) {
      ::kill(child, SIGKILL);
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      EXPECT_TRUE(WIFSIGNALED(status)) << "exit status " << WEXITSTATUS(status);
    }
    while (take()) {
    }
    highest = highest_now;
    ::close(fds[0]);
  }
  auto ledger = Ledger::open(folder.path());
  ASSERT_TRUE(ledger) << ledger.error().message();
  EXPECT_GT(ledger->allot_crid({1, 0}, "u", "c")->value, highest);
}

}  // namespace
}  // namespace fermata::storage
