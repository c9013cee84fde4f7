#include "node-agent/job_streams.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "common/file_util.h"
#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const PodId kPod{{17, 2}, 3, 1};

void put(const UniqueFd& fd, std::string_view text) {
  ASSERT_EQ(write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

TEST(JobStreams, WhatStoodInAFile_Stays) {
  const ScratchFolder folder;
  const fs::path file = folder.path() / "job-17.out";
  std::ofstream(file) << "before\n";
  wire::Streams names;
  names.set_output((folder.path() / "job-%j.out").string());
  Result<JobStreams> streams = open_streams(names, kPod, "n7", *credentials_of_caller());
  ASSERT_TRUE(streams) << streams.error().message();
  put(streams->out, "out\n");
  put(streams->err, "err\n");
  EXPECT_EQ(*read_file(file), "before\nout\nerr\n");
  char byte = 0;
  EXPECT_EQ(read(streams->in.get(), &byte, 1), 0);
}

TEST(JobStreams, ErrorsGoElsewhere_WhereAskedFor) {
  const ScratchFolder folder;
  wire::Streams names;
  names.set_output((folder.path() / "out").string());
  names.set_error((folder.path() / "err.%n").string());
  Result<JobStreams> streams = open_streams(names, kPod, "n7", *credentials_of_caller());
  ASSERT_TRUE(streams) << streams.error().message();
  put(streams->err, "err\n");
  EXPECT_EQ(*read_file(folder.path() / "err.3"), "err\n");
}

TEST(JobStreams, FilesAreTheOwners_AndOpenedWithNoOtherRights) {
  ASSERT_EQ(geteuid(), 0U) << "needs root, as all tests here do";
  const ScratchFolder folder;
  const Credentials nobody = *credentials_of("nobody");
  wire::Streams names;
  names.set_output((folder.path() / "out").string());
  const Result<JobStreams> refused = open_streams(names, kPod, "n7", nobody);
  ASSERT_FALSE(refused) << "the folder is root's alone";
  EXPECT_EQ(refused.error().code(), Code::kPermission);
  EXPECT_THAT(refused.error().message(), HasSubstr((folder.path() / "out").string()));
  ASSERT_EQ(chmod(folder.path().c_str(), 0777), 0);
  ASSERT_TRUE(open_streams(names, kPod, "n7", nobody));
  struct stat status {};
  ASSERT_EQ(stat((folder.path() / "out").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, nobody.uid);
}

TEST(JobStreams, AFifoWithoutReader_IsAFailure_NotAWait) {
  const ScratchFolder folder;
  const fs::path fifo = folder.path() / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  wire::Streams names;
  names.set_output(fifo.string());
  EXPECT_FALSE(open_streams(names, kPod, "n7", *credentials_of_caller()));
}

TEST(JobStreams, ARelativePath_IsRefused) {
  wire::Streams names;
  names.set_output("job.out");
  const Result<JobStreams> refused = open_streams(names, kPod, "n7", *credentials_of_caller());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kUsage);
}

}  // namespace
}  // namespace fermata::node_agent
