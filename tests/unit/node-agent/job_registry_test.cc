#include "node-agent/job_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

/// A process that lives until the test ends it: stands for a pod's PID 1.
class Child {
 public:
  Child() : pid_(fork()) {
    if (pid_ == 0) {
      while (true) pause();
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { end(); }
  void kill_only() const { kill(pid_, SIGKILL); }
  void end() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

class JobRegistryTest : public testing::Test {
 protected:
  JobRecord record_of(JobStep job, pid_t init) const {
    JobRecord record;
    record.job = job;
    record.init = init;
    record.init_start = process_start_time(init);
    record.agent = getpid();
    record.folder = "/data/sets";
    record.owner_uid = 1234;
    record.owner = "ada";
    record.ranks = 4;
    record.command = {"lmp", "-in", "melt \"long\".in", "\xff"};
    record.started = 1'700'000'000;
    record.interval_s = 2.5;
    return record;
  }
  static mode_t mode_of(const fs::path& file) {
    struct stat status {};
    return lstat(file.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
  }
  fs::path folder(const std::string& job) const { return scratch_.path() / "jobs" / job; }

  ScratchFolder scratch_;
  JobRegistry registry_{scratch_.path()};
};

TEST_F(JobRegistryTest, JobNumbersIncrease_AndHeedTheMinimum) {
  EXPECT_EQ(registry_.allot(0)->job, 1U);
  EXPECT_EQ(registry_.allot(0)->job, 2U);
  EXPECT_EQ(registry_.allot(40)->job, 40U);
  EXPECT_EQ(registry_.allot(3)->job, 41U);
  EXPECT_EQ(JobRegistry(scratch_.path()).allot(0)->job, 42U);
}

TEST_F(JobRegistryTest, CounterIsForNobodyElse) {
  const fs::path counter = scratch_.path() / "next-job";
  std::ofstream(counter) << "7\n";
  chmod(counter.c_str(), 0644);  // as it was once made
  EXPECT_EQ(registry_.allot(0)->job, 7U);
  EXPECT_EQ(mode_of(counter), 0600U);
}

TEST_F(JobRegistryTest, RecordIsReadableForAllAndWritableForNobodyElse_WhateverTheUmask) {
  const Child init;
  for (const mode_t mask : {0077U, 0U}) {
    const JobStep job{20 + mask, 0};
    const mode_t before = umask(mask);
    Result<JobClaim> claim = registry_.claim(job);
    const Status published = claim->publish(record_of(job, init.pid()));
    umask(before);
    ASSERT_TRUE(published) << published.message();
    EXPECT_EQ(mode_of(folder(to_string(job)) / "job.json"), 0644U);
    EXPECT_EQ(mode_of(folder(to_string(job))), 0755U);
  }
  EXPECT_EQ(mode_of(scratch_.path() / "jobs"), 0755U);
}

TEST_F(JobRegistryTest, RecordThatOthersCanWriteIsNotBelieved) {
  const Child init;
  Result<JobClaim> claim = registry_.claim(JobStep{13, 0});
  ASSERT_TRUE(claim->publish(record_of(JobStep{13, 0}, init.pid())));
  const fs::path file = folder("13.0") / "job.json";
  EXPECT_TRUE(registry_.find(JobStep{13, 0}));
  for (const mode_t mode : {0664U, 0646U}) {
    chmod(file.c_str(), mode);
    EXPECT_FALSE(registry_.find(JobStep{13, 0}));
  }
  chmod(file.c_str(), 0644);
  EXPECT_TRUE(registry_.find(JobStep{13, 0}));
  if (getuid() != 0) return;  // only root can give files away
  ASSERT_EQ(chown(file.c_str(), 65534, 65534), 0);
  EXPECT_FALSE(registry_.find(JobStep{13, 0}));
}

TEST_F(JobRegistryTest, PublishedJobIsFoundWithAllItsFields) {
  const Child init;
  Result<JobClaim> claim = registry_.claim(JobStep{12, 0});
  ASSERT_TRUE(claim);
  const JobRecord written = record_of(JobStep{12, 0}, init.pid());
  ASSERT_TRUE(claim->publish(written));

  const Result<JobRecord> read = registry_.find(JobStep{12, 0});
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->init, init.pid());
  EXPECT_EQ(read->init_start, written.init_start);
  EXPECT_EQ(read->folder, "/data/sets");
  EXPECT_EQ(read->owner_uid, 1234U);
  EXPECT_EQ(read->owner, "ada");
  EXPECT_EQ(read->ranks, 4U);
  EXPECT_EQ(read->command[2], "melt \"long\".in");
  EXPECT_EQ(read->interval_s, 2.5);
  EXPECT_THAT(*registry_.living(), SizeIs(1));
}

TEST_F(JobRegistryTest, SecondClaimIsBusy_UntilTheFirstEnds) {
  const Child init;
  {
    Result<JobClaim> first = registry_.claim(JobStep{3, 0});
    ASSERT_TRUE(first);
    ASSERT_TRUE(first->publish(record_of(JobStep{3, 0}, init.pid())));
    const Result<JobClaim> second = registry_.claim(JobStep{3, 0});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code(), Code::kBusy);
    EXPECT_THAT(second.error().message(), HasSubstr("3.0"));
  }
  EXPECT_TRUE(registry_.claim(JobStep{3, 0}));
}

TEST_F(JobRegistryTest, FolderOfALivingJobOutlivesItsClaim) {
  const Child init;
  {
    Result<JobClaim> claim = registry_.claim(JobStep{4, 0});
    ASSERT_TRUE(claim->publish(record_of(JobStep{4, 0}, init.pid())));
  }
  EXPECT_TRUE(registry_.find(JobStep{4, 0}));
}

TEST_F(JobRegistryTest, FolderOfAnEndedJobGoesWithItsClaim) {
  Child init;
  {
    Result<JobClaim> claim = registry_.claim(JobStep{5, 0});
    ASSERT_TRUE(claim->publish(record_of(JobStep{5, 0}, init.pid())));
    init.end();
  }
  EXPECT_FALSE(fs::exists(folder("5.0")));
}

TEST_F(JobRegistryTest, ClaimWithoutAJobLeavesNothing) {
  { Result<JobClaim> claim = registry_.claim(JobStep{6, 0}); }
  EXPECT_FALSE(fs::exists(folder("6.0")));
}

TEST_F(JobRegistryTest, FolderOfADeadJobAndAgentIsCollected) {
  Child init;
  const pid_t agent = fork();
  if (agent == 0) {
    Result<JobClaim> claim = registry_.claim(JobStep{7, 0});
    const bool ok = claim && claim->publish(record_of(JobStep{7, 0}, init.pid()));
    _exit(ok ? 0 : 1);  // as killed: no destructor runs
  }
  int status = 0;
  waitpid(agent, &status, 0);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(fs::exists(folder("7.0") / "job.json"));
  EXPECT_THAT(*registry_.living(), SizeIs(1));
  init.end();
  EXPECT_THAT(*registry_.living(), IsEmpty());
  EXPECT_FALSE(fs::exists(folder("7.0")));
}

TEST_F(JobRegistryTest, ReusedPidIsNotTakenForTheJob) {
  const Child init;
  Result<JobClaim> claim = registry_.claim(JobStep{8, 0});
  JobRecord record = record_of(JobStep{8, 0}, init.pid());
  record.init_start -= 1;  // who had this PID before
  ASSERT_TRUE(claim->publish(record));
  const Result<JobRecord> found = registry_.find(JobStep{8, 0});
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code(), Code::kNotFound);
}

TEST_F(JobRegistryTest, ZombieIsDead) {
  const Child init;
  const JobRecord record = record_of(JobStep{9, 0}, init.pid());
  EXPECT_TRUE(record.alive());
  init.kill_only();
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(init.pid()), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(record.alive());
}

TEST_F(JobRegistryTest, DamagedRecordIsNoJob) {
  fs::create_directories(folder("10.0"));
  std::ofstream(folder("10.0") / "job.json") << "{\"job\": \"10.0\", \"init\": \"x\"";
  EXPECT_FALSE(registry_.find(JobStep{10, 0}));
  EXPECT_THAT(*registry_.living(), IsEmpty());
  EXPECT_FALSE(fs::exists(folder("10.0")));
}

TEST_F(JobRegistryTest, NoFolderMeansNoJobs) {
  EXPECT_THAT(*JobRegistry(scratch_.path() / "absent").living(), IsEmpty());
}

}  // namespace
}  // namespace fermata::node_agent
