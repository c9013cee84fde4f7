#include "node-agent/memory_room.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>

#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMiB = 1U << 20;
constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

/// Folders that look like memory control groups.
class MemoryGroups : public testing::Test {
 protected:
  fs::path group(const std::string& name) const {
    fs::path path = name.empty() ? mount() : mount() / name;
    fs::create_directories(path);
    return path;
  }
  fs::path mount() const { return folder_.path() / "cgroup"; }
  static void write(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }
  static void version1(const fs::path& group, uint64_t limit, uint64_t usage, uint64_t unused = 0) {
    write(group / "memory.limit_in_bytes", std::to_string(limit));
    write(group / "memory.usage_in_bytes", std::to_string(usage));
    write(group / "memory.stat", "cache 5\ntotal_inactive_file " + std::to_string(unused) + "\n");
  }
  static void version2(const fs::path& group, const std::string& max, uint64_t usage,
                       uint64_t unused = 0) {
    write(group / "memory.max", max);
    write(group / "memory.current", std::to_string(usage));
    write(group / "memory.stat", "anon 5\ninactive_file " + std::to_string(unused) + "\n");
  }

 private:
  ScratchFolder folder_;
};

TEST_F(MemoryGroups, Version1_TheTightestOfAllAncestorsCounts) {
  version1(group(""), 0x7ffffffffffff000, 900 * kMiB);
  version1(group("user"), 440 * kMiB, 400 * kMiB);
  version1(group("user/job"), 600 * kMiB, 400 * kMiB);
  EXPECT_EQ(limits_leave(mount(), group("user/job"), false), 40 * kMiB);
  EXPECT_EQ(limits_leave(mount(), mount(), false), kUnlimited);
}

TEST_F(MemoryGroups, Version1_FilesKeptForLaterAreFree_AndNoLimitIsNone) {
  version1(group("job"), 440 * kMiB, 430 * kMiB, 100 * kMiB);
  EXPECT_EQ(limits_leave(mount(), group("job"), false), 110 * kMiB);
  version1(group("full"), 440 * kMiB, 450 * kMiB);
  EXPECT_EQ(limits_leave(mount(), group("full"), false), 0U);
  version1(group("free"), 0x7ffffffffffff000, 450 * kMiB);
  EXPECT_EQ(limits_leave(mount(), group("free"), false), kUnlimited);
  EXPECT_EQ(limits_leave(mount(), group("no_files"), false), kUnlimited);
}

TEST_F(MemoryGroups, Version2_LimitAndThrottleOfAllAncestorsCount) {
  version2(group("slice"), "max", 500 * kMiB);
  version2(group("slice/job"), std::to_string(440 * kMiB), 400 * kMiB, 8 * kMiB);
  version2(group("slice/job/pod"), "max", 400 * kMiB);
  EXPECT_EQ(limits_leave(mount(), group("slice/job/pod"), true), 48 * kMiB);
  write(group("slice") / "memory.high", std::to_string(520 * kMiB));
  EXPECT_EQ(limits_leave(mount(), group("slice/job/pod"), true), 20 * kMiB);
  EXPECT_EQ(limits_leave(mount(), group("slice"), true), 20 * kMiB);
}

TEST_F(MemoryGroups, Version2_WhereAllGoTogetherOnlyHalfIsLeft) {
  version2(group("job"), std::to_string(440 * kMiB), 400 * kMiB);
  version2(group("job/pod"), "max", 400 * kMiB);
  write(group("job/pod") / "memory.oom.group", "1");
  EXPECT_EQ(limits_leave(mount(), group("job/pod"), true), 20 * kMiB);
  EXPECT_EQ(limits_leave(mount(), group("job"), true), 40 * kMiB);
}

TEST(MemoryRoom, IsSomeMemoryAndNotMoreThanTheMachineHas) {
  const uint64_t machine =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  EXPECT_GT(available_memory(), 0U);
  EXPECT_LE(available_memory(), machine);
  EXPECT_LE(available_memory_of("/no/such/group"), machine);
}

TEST(MemoryRoom, GroupWithoutProcessesHasNone) { EXPECT_EQ(memory_use("/no/such/group").own, 0U); }

TEST(MemoryRoom, FilesOfTmpfsTakeMemory) {
  EXPECT_TRUE(is_in_memory("/dev/shm"));
  EXPECT_FALSE(is_in_memory("/proc"));
  EXPECT_FALSE(is_in_memory("/no/such/folder"));
}

}  // namespace
}  // namespace fermata::node_agent
