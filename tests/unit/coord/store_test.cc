// The coordinator's store, also under kill -9.
#include "coord/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>
#include <random>
#include <thread>

#include "coord/job.h"
#include "tests/support/scratch_folder.h"

namespace fermata::coord {
namespace {

stored::Job job(uint64_t number, stored::Job::State state = stored::Job::RUNNING) {
  stored::Job record;
  record.set_job(number);
  record.set_state(state);
  record.set_owner("ada");
  record.add_pods()->set_node("n1");
  return record;
}

TEST(Store, KeepsNumbersAndJobs) {
  const ScratchFolder folder;
  {
    const auto store = *Store::open(folder / "state");
    EXPECT_EQ(store->allot_crid({})->value, 1U);
    EXPECT_EQ(store->allot_crid({40})->value, 40U);
    EXPECT_EQ(store->allot_crid({7})->value, 41U);
    EXPECT_EQ(*store->allot_job(1), 1U);
    EXPECT_EQ(*store->allot_start({1, 0}), 1U);
    ASSERT_TRUE(store->put(job(1)));
    stored::Job second = job(2);
    ASSERT_TRUE(store->put(second));
    second.set_state(stored::Job::ENDED);
    second.set_ended(std::time(nullptr));
    ASSERT_TRUE(store->put(second));
    stored::Job old = job(3, stored::Job::ENDED);
    old.set_ended(1000);
    ASSERT_TRUE(store->put(old));
  }
  const auto store = *Store::open(folder / "state");
  EXPECT_EQ(store->allot_crid({})->value, 42U);
  EXPECT_EQ(*store->allot_job(1), 2U);
  EXPECT_EQ(*store->allot_start({1, 0}), 2U);
  EXPECT_EQ(*store->allot_start({9, 0}), 1U);
  const std::vector<stored::Job> jobs = *store->jobs();
  ASSERT_EQ(jobs.size(), 2U) << "an old end is forgotten";
  EXPECT_EQ(jobs[0].pods(0).node(), "n1");
  EXPECT_EQ(jobs[1].state(), stored::Job::ENDED);
}

TEST(Store, NumbersOfAFolder_DoNotUseUpTheClusters) {
  const ScratchFolder folder;
  const auto store = *Store::open(folder / "state");
  for (const int64_t end : {INT64_MAX, INT64_MAX - 1, int64_t{1} << 40}) {
    const auto far = static_cast<uint64_t>(end);
    EXPECT_EQ(store->allot_crid({far}).error().code(), Code::kConflict);
    EXPECT_EQ(store->allot_job(far).error().code(), Code::kConflict);
    EXPECT_TRUE(store->raise_job(far));
  }
  EXPECT_EQ(store->allot_crid({})->value, 1U);
  EXPECT_EQ(*store->allot_job(1), 1U);
  EXPECT_TRUE(store->raise_job(7));
  EXPECT_TRUE(store->raise_job(5));
  EXPECT_EQ(*store->allot_job(1), 8U);
}

// The advice was that for ledgers, which does nothing for this file.
TEST(Store, DamageThatIsFoundLate_ComesWithTheAdviceForIt) {
  const ScratchFolder folder;
  const auto store = *Store::open(folder / "state");
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open((folder / "state/coordinator.sqlite").c_str(), &other), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(other, "DROP TABLE jobs; DROP TABLE counters; DROP TABLE starts", nullptr,
                         nullptr, nullptr),
            SQLITE_OK);
  ASSERT_EQ(sqlite3_close(other), SQLITE_OK);
  for (const Status& status :
       {store->put(job(1)), store->jobs().error(), store->allot_crid({}).error(),
        store->allot_job(1).error(), store->allot_start({1, 0}).error(), store->raise_job(9)}) {
    EXPECT_EQ(status.code(), Code::kDamaged);
    EXPECT_THAT(status.message(), testing::HasSubstr("coordinator.sqlite is damaged: end the"));
  }
}

TEST(Store, IsForOneCoordinatorAtATime) {
  const ScratchFolder folder;
  const auto store = *Store::open(folder / "state");
  const auto second = Store::open(folder / "state");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Code::kBusy);
}

/// What it was given stands in the pipe before anything is done with it.
[[noreturn]] void use_until_killed(const std::filesystem::path& state, int pipe) {
  const auto store = Store::open(state);
  if (!store) _exit(1);
  for (uint64_t turn = 0;; ++turn) {
    const Result<Crid> crid = (*store)->allot_crid({});
    if (!crid) _exit(1);
    if (write(pipe, &crid->value, sizeof crid->value) != sizeof crid->value) _exit(1);
    stored::Job record = job(1 + turn % 3);
    record.set_last_crid(crid->value);
    record.set_sentence(std::string(2000, static_cast<char>('a' + crid->value % 26)));
    if (!(*store)->put(record)) _exit(1);
  }
}

TEST(Store, GivesNoNumberTwice_AndKeepsNoHalfJob_KilledAnywhere) {
  const ScratchFolder folder;
  std::mt19937 random(7);
  uint64_t last = 0;
  for (int round = 0; round < 30; ++round) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe(ends.data()), 0);
    const pid_t child = fork();
    if (child == 0) use_until_killed(folder / "state", ends[1]);
    close(ends[1]);
    uint64_t crid = 0;
    if (round % 3 == 0) {
      // On a busy machine it may not come to its first number in time.
      ASSERT_EQ(read(ends[0], &crid, sizeof crid), static_cast<ssize_t>(sizeof crid));
      EXPECT_GT(crid, last);
      last = crid;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 40'000));
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    while (read(ends[0], &crid, sizeof crid) == static_cast<ssize_t>(sizeof crid)) {
      EXPECT_GT(crid, last);
      last = crid;
    }
    close(ends[0]);
    const auto store = Store::open(folder / "state");
    ASSERT_TRUE(store) << store.error().message();
    const auto jobs = (*store)->jobs();
    ASSERT_TRUE(jobs) << jobs.error().message();
    for (const stored::Job& record : *jobs) {
      EXPECT_LE(record.last_crid(), last);
      EXPECT_EQ(record.sentence(),
                std::string(2000, static_cast<char>('a' + record.last_crid() % 26)));
    }
    const uint64_t next = (*store)->allot_crid({})->value;
    EXPECT_GT(next, last);
    last = next;
  }
  EXPECT_GT(last, 30U);
}

}  // namespace
}  // namespace fermata::coord
