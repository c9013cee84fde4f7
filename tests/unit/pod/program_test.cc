#include "node-agent/pod/program.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;

class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text = "/tmp/fermata-program.XXXXXX";
    ASSERT_NE(mkdtemp(text.data()), nullptr);
    folder_ = text;
    ASSERT_EQ(chmod(folder_.c_str(), 0755), 0);
    make("a/tool", 0755);
    make("b/tool", 0755);
    make("b/other", 0755);
    make("a/plain", 0644);
    make("secret/tool2", 0755);
    ASSERT_EQ(chmod((folder_ / "secret").c_str(), 0700), 0);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void make(const std::string& name, mode_t mode) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << "#!/bin/sh\n";
    ASSERT_EQ(chmod((folder_ / name).c_str(), mode), 0);
  }

  Result<std::string> find(const std::string& command, const std::string& user = "nobody") const {
    const std::string path = "PATH=" + (folder_ / "a").native() + ":" + (folder_ / "b").native() +
                             ":" + (folder_ / "secret").native();
    return find_program(command, {path}, folder_.native(), *credentials_of(user));
  }

  fs::path folder_;
};

TEST_F(ProgramTest, Program_IsTheFirstInThePath) {
  EXPECT_EQ(find("tool"), (folder_ / "a/tool").native());
  EXPECT_EQ(find("other"), (folder_ / "b/other").native());
}

TEST_F(ProgramTest, Program_WithSlash_IsTakenAsGiven) {
  EXPECT_EQ(find("b/tool"), "b/tool");
  EXPECT_EQ(find((folder_ / "b/tool").native()), (folder_ / "b/tool").native());
}

TEST_F(ProgramTest, Program_IsMissing_WithAShellsWords) {
  EXPECT_EQ(find("nothing").error().code(), Code::kNotFound);
  EXPECT_EQ(find("nothing").error().message(), "nothing: command not found");
  EXPECT_EQ(find("./nothing").error().code(), Code::kNotFound);
  EXPECT_EQ(find("./nothing").error().message(), "./nothing: No such file or directory");
  EXPECT_EQ(find("").error().code(), Code::kNotFound);
}

TEST_F(ProgramTest, Program_IsDenied_WhenNotExecutable) {
  for (const char* command : {"plain", "a/plain", "./a", "secret/tool2"}) {
    const Result<std::string> found = find(command);
    ASSERT_FALSE(found) << command;
    EXPECT_EQ(found.error().code(), Code::kPermission);
    EXPECT_EQ(found.error().message(), std::string(command) + ": Permission denied");
  }
}

TEST_F(ProgramTest, Program_IsLookedUpWithTheUsersRights) {
  EXPECT_TRUE(find("tool2", "root"));
  // As for a shell, what lies in a folder of the PATH that cannot be searched is not there.
  EXPECT_EQ(find("tool2", "nobody").error().code(), Code::kNotFound);
  // The caller is root again afterwards.
  EXPECT_EQ(access((folder_ / "secret/tool2").c_str(), R_OK), 0);
}

}  // namespace
}  // namespace fermata::pod
