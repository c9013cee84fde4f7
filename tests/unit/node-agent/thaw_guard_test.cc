// The guard against a group that stays frozen. A real group where this user may make one (root).
#include "node-agent/thaw_guard.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <optional>
#include <thread>

#include "node-agent/pod/pod.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;

/// A cgroup with one sleeping process.
class Group {
 public:
  Group() {
    const Result<fs::path> mount = pod::cgroup2_mount();
    if (!mount) return;
    path_ = *mount / ("fermata-test-thaw-" + std::to_string(getpid()));
    if (mkdir(path_.c_str(), 0755) != 0) {
      path_.clear();
      return;
    }
    sleeper_ = fork();
    if (sleeper_ == 0) {
      while (true) pause();
    }
    std::ofstream(path_ / "cgroup.procs") << sleeper_;
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    if (path_.empty()) return;
    freeze(false);
    kill(sleeper_, SIGKILL);
    waitpid(sleeper_, nullptr, 0);
    rmdir(path_.c_str());
  }
  const fs::path& path() const { return path_; }
  void freeze(bool frozen) const { std::ofstream(path_ / "cgroup.freeze") << (frozen ? 1 : 0); }
  bool frozen() const {
    int value = -1;
    std::ifstream(path_ / "cgroup.freeze") >> value;
    return value == 1;
  }
  bool wait_thawed() const {
    for (int i = 0; i < 200 && frozen(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return !frozen();
  }

 private:
  fs::path path_;
  pid_t sleeper_ = -1;
};

TEST(ThawGuard, MissingGroupIsAFailure) {
  EXPECT_FALSE(ThawGuard::start("/no/such/group"));
  EXPECT_FALSE(thaw_group("/no/such/group"));
}

TEST(ThawGuard, ThawsTheGroup_WhenItsAgentIsKilled) {
  const Group group;
  if (group.path().empty()) {
    ASSERT_NE(getuid(), 0U) << "root can make a group";
    return;
  }
  const pid_t agent = fork();
  if (agent == 0) {
    const Result<ThawGuard> guard = ThawGuard::start(group.path());
    group.freeze(true);
    while (guard) pause();
    _exit(1);
  }
  for (int i = 0; i < 200 && !group.frozen(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ASSERT_TRUE(group.frozen());
  kill(agent, SIGKILL);
  waitpid(agent, nullptr, 0);
  EXPECT_TRUE(group.wait_thawed());
}

TEST(ThawGuard, LeavesTheGroupAlone_WhenItIsEnded) {
  const Group group;
  if (group.path().empty()) {
    ASSERT_NE(getuid(), 0U) << "root can make a group";
    return;
  }
  {
    Result<ThawGuard> guard = ThawGuard::start(group.path());
    ASSERT_TRUE(guard) << guard.error().message();
    group.freeze(true);
  }
  EXPECT_TRUE(group.frozen());
  EXPECT_TRUE(thaw_group(group.path()));
  EXPECT_FALSE(group.frozen());
  EXPECT_TRUE(thaw_group(group.path())) << "a group that is not frozen stays so";
}

}  // namespace
}  // namespace fermata::node_agent
