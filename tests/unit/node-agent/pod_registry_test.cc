#include "node-agent/pod_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "node-agent/job_registry.h"
#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

PodRecord record_of(uint64_t job, uint32_t pod, uint32_t start = 0) {
  PodRecord record;
  record.id = {{job, 1}, pod, start};
  record.init = getpid();
  record.init_start = process_start_time(getpid());
  record.group = "/sys/fs/cgroup/fermata/7.1.0";
  record.owner = {65534, 65533, {1, 2}, "nobody", "/nonexistent"};
  record.pod_of_rank = {0, 0, 1, 1};
  record.command = {"./solve", "in\xff"};
  record.folder = "/scratch/nobody";
  record.started = 1234;
  record.rank_streams = 6;
  record.known_addresses = {std::string("\x02\0\xff", 3), "x"};
  return record;
}

std::vector<PodId> ids_of(const std::vector<PodRecord>& records) {
  std::vector<PodId> ids;
  for (const PodRecord& record : records) ids.push_back(record.id);
  return ids;
}

TEST(PodRegistry, KeepsWhatItWasTold) {
  const ScratchFolder folder;
  const PodRegistry registry(folder.path() / "run");
  EXPECT_THAT(registry.all(), IsEmpty());
  ASSERT_TRUE(registry.put(record_of(7, 1)));
  PodRecord ended = record_of(7, 0, 2);
  ended.ended = true;
  ended.wait_status = 256;
  ended.reason = "why";
  ASSERT_TRUE(registry.put(ended));

  const std::vector<PodRecord> all = PodRegistry(folder.path() / "run").all();
  EXPECT_THAT(ids_of(all), ElementsAre(PodId{{7, 1}, 0, 2}, PodId{{7, 1}, 1, 0}));
  EXPECT_FALSE(all[0].alive());
  EXPECT_EQ(all[0].wait_status, 256);
  EXPECT_EQ(all[0].reason, "why");
  EXPECT_TRUE(all[1].alive());
  EXPECT_TRUE(all[1].has_peers());
  EXPECT_EQ(all[1].rank_streams, 6);
  EXPECT_EQ(all[1].group, "/sys/fs/cgroup/fermata/7.1.0");
  EXPECT_EQ(all[1].owner, (Credentials{65534, 65533, {1, 2}, "nobody", "/nonexistent"}));
  EXPECT_THAT(all[1].pod_of_rank, ElementsAre(0, 0, 1, 1));
  EXPECT_EQ(all[1].folder, "/scratch/nobody");
  EXPECT_EQ(all[1].started, 1234);
  EXPECT_THAT(all[1].known_addresses, ElementsAre(std::string("\x02\0\xff", 3), "x"));
  EXPECT_EQ(all[1].wait_status, std::nullopt);

  registry.remove({{7, 1}, 1, 0});
  registry.remove({{7, 1}, 1, 0});
  EXPECT_THAT(ids_of(registry.all()), ElementsAre(PodId{{7, 1}, 0, 2}));
}

TEST(PodRegistry, PassesOver_WhatOthersCanHaveWritten) {
  const ScratchFolder folder;
  const PodRegistry registry(folder.path());
  ASSERT_TRUE(registry.put(record_of(7, 0)));
  std::ofstream(folder.path() / "pods/8.0.0.0.json") << "no JSON";
  std::ofstream(folder.path() / "pods/9.0.0.0.json") << R"({"job": "x"})";
  EXPECT_THAT(registry.all(), SizeIs(1));
  ASSERT_EQ(chmod((folder.path() / "pods/7.1.0.0.json").c_str(), 0666), 0);
  EXPECT_THAT(registry.all(), IsEmpty());
}

TEST(PodRegistry, TidyRemoves_WhatWasHalfWritten) {
  const ScratchFolder folder;
  const PodRegistry registry(folder.path());
  ASSERT_TRUE(registry.put(record_of(7, 0)));
  std::ofstream(folder.path() / "pods/7.1.0.0.json.part-abcdef") << "{";
  std::ofstream(registry.placement_of(record_of(7, 0).id)) << "plan";
  std::ofstream(registry.placement_of(record_of(7, 1).id)) << "plan";
  registry.tidy();
  EXPECT_TRUE(std::filesystem::exists(registry.placement_of(record_of(7, 0).id)));
  EXPECT_FALSE(std::filesystem::exists(registry.placement_of(record_of(7, 1).id))) << "of no pod";
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "pods/7.1.0.0.json.part-abcdef"));
  EXPECT_THAT(registry.all(), SizeIs(1));
  registry.remove(record_of(7, 0).id);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path() / "pods"));
}

TEST(PodRegistry, TellsWhoseSigtermIsHeld) {
  const ScratchFolder folder;
  const PodRegistry registry(folder.path());
  const PodId pod = record_of(7, 0).id;
  EXPECT_THAT(registry.held_terms_of(pod), IsEmpty());
  ASSERT_TRUE(registry.put(record_of(7, 0)));
  registry.note_held_terms(pod, {3, 12});
  registry.note_held_terms(record_of(7, 1).id, {1});
  registry.tidy();
  EXPECT_EQ(registry.held_terms_of(pod), (std::set<uint32_t>{3, 12}));
  EXPECT_THAT(registry.held_terms_of(record_of(7, 1).id), IsEmpty()) << "of no pod";
  registry.note_held_terms(pod, {});
  EXPECT_THAT(registry.held_terms_of(pod), IsEmpty());
  registry.note_held_terms(pod, {3});
  registry.remove(pod);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path() / "pods"));
}

TEST(PodRegistry, TellsWhoseMemoryStillComes) {
  const ScratchFolder folder;
  const PodRegistry registry(folder.path());
  const PodId pod = record_of(7, 0).id;
  ASSERT_TRUE(registry.put(record_of(7, 0)));
  EXPECT_FALSE(registry.memory_comes(pod));
  EXPECT_FALSE(registry.any_memory_comes());
  ASSERT_TRUE(registry.note_memory_comes(pod));
  EXPECT_TRUE(registry.any_memory_comes());
  ASSERT_TRUE(registry.note_memory_comes(record_of(7, 1).id));
  registry.tidy();
  EXPECT_TRUE(registry.memory_comes(pod));
  EXPECT_FALSE(registry.memory_comes(record_of(7, 1).id)) << "of no pod";
  registry.note_memory_came(pod);
  EXPECT_FALSE(registry.memory_comes(pod));
  ASSERT_TRUE(registry.note_memory_comes(pod));
  registry.remove(pod);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path() / "pods"));
}

TEST(JobRegistry, NamesPodsOfTheService_EachStepOnce) {
  const ScratchFolder folder;
  const PodRegistry pods(folder.path());
  ASSERT_TRUE(pods.put(record_of(7, 0)));
  ASSERT_TRUE(pods.put(record_of(7, 1)));
  PodRecord dead = record_of(8, 0);
  dead.init_start += 1;
  ASSERT_TRUE(pods.put(dead));

  JobRegistry jobs(folder.path());
  const Result<std::vector<JobRecord>> living = jobs.living();
  ASSERT_TRUE(living) << living.error().message();
  ASSERT_THAT(*living, SizeIs(1));
  EXPECT_EQ(living->front().job, (JobStep{7, 1}));
  EXPECT_EQ(living->front().ranks, 4U);
  EXPECT_TRUE(living->front().service);
  EXPECT_EQ(living->front().placement, pods.placement_of(record_of(7, 0).id));
  const Result<JobRecord> found = jobs.find({7, 1});
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_EQ(found->init, getpid());
  EXPECT_EQ(jobs.find({8, 1}).error().code(), Code::kNotFound);
  const Result<std::vector<JobRecord>> both = jobs.pods({7, 1});
  ASSERT_TRUE(both) << both.error().message();
  ASSERT_THAT(*both, SizeIs(2));
  EXPECT_EQ(both->back().pod, 1U);
  EXPECT_EQ(both->back().placement, pods.placement_of(record_of(7, 1).id));
  EXPECT_EQ(jobs.pods({8, 1}).error().code(), Code::kNotFound);
  EXPECT_THAT(pods.all(), SizeIs(3)) << "whoever lists jobs removes no pod's record";
}

}  // namespace
}  // namespace fermata::node_agent
