// Pods in a row: what one leaves behind, a hundred make visible.
#include <sys/wait.h>

#include <set>

#include "pod_fixture.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;

class ManyPodsTest : public PodFixture {};

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

TEST_F(ManyPodsTest, HundredPods_LeaveNothingBehind) {
  const std::string mounts = read_file("/proc/self/mountinfo");
  const std::set<std::string> shared_memory = names_in("/dev/shm");
  const std::set<std::string> descriptors = names_in("/proc/self/fd");
  const fs::path parent = *cgroup2_mount() / "fermata";
  for (int i = 0; i < 100; ++i) {
    PodSpec spec = script("exit 1");
    spec.ranks = 2;
    ASSERT_EQ(run(spec).status, 1);
    EXPECT_FALSE(fs::exists(parent / to_string(spec.job)));
  }
  EXPECT_EQ(read_file("/proc/self/mountinfo"), mounts);
  EXPECT_EQ(names_in("/dev/shm"), shared_memory);
  EXPECT_EQ(names_in("/proc/self/fd"), descriptors);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
}

}  // namespace
}  // namespace fermata::pod
