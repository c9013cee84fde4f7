#include "common/credentials.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "common/unique_fd.h"
#include "tests/support/scratch_folder.h"

namespace fermata {
namespace {

/// A line of /proc/thread-self/status, such as "Uid:\t0\t0\t0\t0".
std::string status_line(const std::string& name,
                        const std::string& file = "/proc/thread-self/status") {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(name + ":")) return line;
  }
  return {};
}

std::string identity() {
  return status_line("Uid") + status_line("Gid") + status_line("Groups") + status_line("CapEff");
}

Credentials nobody() {
  Credentials user;
  user.uid = 65534;
  user.gid = 65534;
  user.groups = {65534};
  user.name = "nobody";
  return user;
}

class FsCredential : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(geteuid(), 0U) << "this test runs as root";
    ASSERT_EQ(chmod(folder_.path().c_str(), 0777), 0);
    std::ofstream(secret_) << "root's";
    ASSERT_EQ(chmod(secret_.c_str(), 0600), 0);
  }

  bool can_read_secret() const { return UniqueFd(open(secret_.c_str(), O_RDONLY)).valid(); }

  ScratchFolder folder_;
  std::filesystem::path secret_ = folder_ / "secret";
};

TEST_F(FsCredential, Scope_ReadsAndCreatesAsTheUser_AndIsUndoneAtItsEnd) {
  const std::string before = identity();
  {
    auto scope = FsCredentialScope::enter(nobody());
    ASSERT_TRUE(scope) << scope.error().message();
    EXPECT_FALSE(can_read_secret());
    EXPECT_EQ(errno, EACCES);
    const UniqueFd mine(open((folder_ / "mine").c_str(), O_CREAT | O_WRONLY, 0644));
    struct stat status {};
    ASSERT_EQ(fstat(mine.get(), &status), 0);
    EXPECT_EQ(status.st_uid, 65534U);
    EXPECT_EQ(status.st_gid, 65534U);
  }
  EXPECT_EQ(identity(), before);
  EXPECT_TRUE(can_read_secret());
}

TEST_F(FsCredential, Scope_LeavesOtherThreadsAlone) {
  std::string inside;
  std::string leader;
  std::thread([&] {
    auto scope = FsCredentialScope::enter(nobody());
    inside = status_line("Uid");
    EXPECT_FALSE(can_read_secret());
    leader = status_line("Uid", "/proc/" + std::to_string(getpid()) + "/status");
  }).join();
  EXPECT_EQ(inside, "Uid:\t0\t0\t0\t65534");
  EXPECT_EQ(leader, "Uid:\t0\t0\t0\t0");
}

TEST_F(FsCredential, Scope_EndsOnce_AfterAMove) {
  const std::string before = identity();
  auto scope = FsCredentialScope::enter(nobody());
  ASSERT_TRUE(scope) << scope.error().message();
  { const FsCredentialScope moved = std::move(*scope); }
  EXPECT_EQ(identity(), before);
}

TEST_F(FsCredential, Scope_NestsAndKeepsAReducedSet) {
  auto outer = FsCredentialScope::enter(nobody());
  ASSERT_TRUE(outer) << outer.error().message();
  const std::string outside = identity();
  Credentials other = nobody();
  other.uid = 65533;
  {
    auto inner = FsCredentialScope::enter(other);
    ASSERT_TRUE(inner) << inner.error().message();
    EXPECT_NE(identity(), outside);
  }
  EXPECT_EQ(identity(), outside);
}

/// Runs `body` in a child that has become nobody for good; returns its exit status.
template <typename Body>
int as_nobody(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    if (setgroups(0, nullptr) != 0 || setgid(65534) != 0 || setuid(65534) != 0) _exit(99);
    _exit(body());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(FsCredential, Scope_IsRefused_WithoutPrivilege) {
  EXPECT_EQ(as_nobody([] {
              const std::string before = identity();
              Credentials root;
              root.groups = {0};
              auto scope = FsCredentialScope::enter(root);
              if (scope || scope.error().code() != Code::kPermission) return 1;
              return identity() == before ? 0 : 2;
            }),
            0);
}

TEST_F(FsCredential, Scope_IsFree_ForTheUserItself) {
  EXPECT_EQ(as_nobody([] {
              auto caller = credentials_of_caller();
              if (!caller || caller->uid != 65534) return 1;
              return FsCredentialScope::enter(*caller) ? 0 : 2;
            }),
            0);
}

TEST(Credentials, User_IsFoundByNameAndByNumber) {
  const auto root = credentials_of("root");
  ASSERT_TRUE(root) << root.error().message();
  EXPECT_EQ(root->uid, 0U);
  EXPECT_EQ(root->home, "/root");
  EXPECT_EQ(credentials_of("0").value(), *root);
  EXPECT_NE(std::ranges::find(root->groups, 0U), root->groups.end());
}

TEST(Credentials, UnknownUser_IsNotFoundByName) {
  for (const char* name : {"no-such-user-here", "", "-1", "4294967294"}) {
    const auto user = credentials_of(name);
    ASSERT_FALSE(user) << name;
    EXPECT_EQ(user.error().code(), Code::kNotFound);
  }
}

TEST(UserName, StandsForItsPlaceInAPath) {
  EXPECT_EQ(with_user_name("/scratch/%u/sets", "alice"), "/scratch/alice/sets");
  EXPECT_EQ(with_user_name("/%%u/%x/%", "alice"), "/%u/%x/%");
  EXPECT_EQ(with_user_name("%u%u", "a"), "aa");
}

}  // namespace
}  // namespace fermata
