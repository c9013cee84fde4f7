#include "node-agent/engine/page_search.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <string>

namespace fermata::engine {
namespace {

/// Finds one page of each process, at its PID.
class Finder final : public PageFinder {
 public:
  Result<Extents> find(const StoppedProcess& process, std::span<const OwnMap> /*maps*/) override {
    const std::lock_guard lock(mutex_);
    ++asked[process.vpid];
    if (process.vpid == fails_for) return failure(Code::kInternal, "it cannot be told");
    return Extents{{static_cast<uint64_t>(process.vpid) * kPageSize, kPageSize}};
  }
  bool needs_no_calls(const StoppedProcess& process) const override {
    return process.vpid != needs_calls;
  }

  std::map<int, int> asked;  ///< how often, by PID
  int fails_for = 0;
  int needs_calls = 0;

 private:
  std::mutex mutex_;
};

MemoryRegion region_of(int vpid) {
  return {{MemoryId::Kind::kProcess, static_cast<uint64_t>(vpid)}, {}, nullptr};
}

constexpr int kProcesses = 40;

Status add_all(PageSearch& search) {
  for (int vpid = kProcesses; vpid > 0; --vpid) {
    FERMATA_TRY(search.add({0, vpid, {}}, {}, region_of(vpid)));
  }
  return Status::ok();
}

TEST(PageSearch, FindsEachOnce_InTheOrderOfPids_BeforeWhatIsThere) {
  Finder finder;
  finder.needs_calls = kProcesses / 2;
  PageSearch search(finder, nullptr);
  ASSERT_EQ(add_all(search).code(), Code::kOk);
  std::vector<MemoryRegion> memory{{{MemoryId::Kind::kObject, 1}, {}, nullptr}};
  ASSERT_EQ(search.finish(memory).code(), Code::kOk);
  ASSERT_EQ(memory.size(), kProcesses + 1U);
  for (uint64_t i = 0; i < kProcesses; ++i) {
    EXPECT_EQ(memory[i].id.id, i + 1);
    EXPECT_EQ(memory[i].extents, (Extents{{(i + 1) * kPageSize, kPageSize}}));
    EXPECT_EQ(finder.asked[static_cast<int>(i) + 1], 1);
  }
  EXPECT_EQ(memory.back().id.kind, MemoryId::Kind::kObject);
}

TEST(PageSearch, Fails_WhereOneCannotBeTold) {
  Finder finder;
  finder.fails_for = 7;
  PageSearch search(finder, nullptr);
  ASSERT_EQ(add_all(search).code(), Code::kOk);
  std::vector<MemoryRegion> memory;
  EXPECT_EQ(search.finish(memory).message(), "it cannot be told");
}

TEST(PageSearch, WithTwins_IsOver_BeforeOneIsMade) {
  Finder finder;
  std::vector<UnfoundPages> unfound;
  PageSearch search(finder, &unfound);
  ASSERT_EQ(search.add({0, 3, {}}, {}, region_of(3)).code(), Code::kOk);
  EXPECT_EQ(finder.asked[3], 1) << "one that changes what it looks at cannot wait";
  EXPECT_TRUE(unfound.empty());
}

}  // namespace
}  // namespace fermata::engine
