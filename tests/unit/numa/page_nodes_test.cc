#include "numa/page_nodes.h"

#include <gtest/gtest.h>

#include "numa/number_list.h"
#include "numa/survey.h"

namespace fermata::numa {
namespace {

constexpr uint64_t kPage = 0x1000;
constexpr uint64_t kBase = 0x7f0000000000;
constexpr uint64_t kMega = uint64_t{1} << 20;

TEST(NumberList, IsWrittenAndReadAlike) {
  for (const char* text : {"", "0", "0-3", "0-3,8", "1,3,5-6,8191"}) {
    const auto numbers = parse_list(text);
    ASSERT_TRUE(numbers) << text;
    EXPECT_EQ(format_list(*numbers), text);
  }
}

TEST(NumberList, RefusesWhatIsNoList) {
  for (const char* text : {",", "1,", ",1", "a", "1-", "-1", "3-1", "1 ", "2,1", "1,1", "0-8192",
                           "99999999999999999999", "1--2", "0-3,3"}) {
    const auto numbers = parse_list(text);
    ASSERT_FALSE(numbers) << text;
    EXPECT_EQ(numbers.error().code(), Code::kDamaged);
  }
}

// Memory that answers by a function of the page's index, and counts the questions.
class Memory {
 public:
  explicit Memory(std::function<int(uint64_t)> node_of) : node_of_(std::move(node_of)) {}

  std::vector<NodeRun> runs(uint64_t pages, size_t limit = 4096) {
    const AskNodes ask = [this](std::span<const uint64_t> asked, std::span<int> nodes) {
      for (size_t i = 0; i < asked.size(); ++i) nodes[i] = node_of_((asked[i] - kBase) / kPage);
      questions_ += asked.size();
      return Status::ok();
    };
    auto found = runs_of(kBase, kBase + pages * kPage, ask, gaps_, limit);
    return found ? *found : std::vector<NodeRun>{};
  }
  uint64_t questions() const { return questions_; }
  void leave_gaps() { gaps_ = Gaps::kLeftOut; }

 private:
  std::function<int(uint64_t)> node_of_;
  uint64_t questions_ = 0;
  Gaps gaps_ = Gaps::kJoined;
};

TEST(PageNodes, FindsTheBorderToThePage) {
  for (const uint64_t border : {1U, 31U, 32U, 33U, 511U, 512U, 700U, 99'998U, 99'999U}) {
    Memory memory([&](uint64_t page) { return page < border ? 3 : 1; });
    const std::vector<NodeRun> runs = memory.runs(100'000);
    ASSERT_EQ(runs.size(), 2U) << border;
    EXPECT_EQ(runs[0].start, kBase);
    EXPECT_EQ(runs[0].length, border * kPage) << border;
    EXPECT_EQ(runs[0].nodes, Numbers{3});
    EXPECT_EQ(runs[1].start, kBase + border * kPage);
    EXPECT_EQ(runs[1].length, (100'000 - border) * kPage);
    EXPECT_EQ(runs[1].nodes, Numbers{1});
    EXPECT_LT(memory.questions(), 100'000 / 32 + 50);
  }
}

TEST(PageNodes, AsksForEachPage_OfASmallRange) {
  Memory memory([](uint64_t page) { return page == 0 ? 1 : page < 10 ? -2 : 0; });
  const std::vector<NodeRun> runs = memory.runs(40);
  ASSERT_EQ(runs.size(), 2U);
  EXPECT_EQ(runs[0].nodes, Numbers{1});
  EXPECT_EQ(runs[0].bytes, kPage);
  EXPECT_EQ(runs[1].bytes, 30 * kPage);
  EXPECT_EQ(runs[0].length + runs[1].length, 40 * kPage);
}

TEST(PageNodes, CallsInterleavedMemoryMixed_WhateverThePeriod) {
  for (const uint64_t period : {1U, 2U, 3U, 4U, 8U, 16U, 32U}) {
    Memory memory([&](uint64_t page) { return static_cast<int>(page / period % 4); });
    const std::vector<NodeRun> runs = memory.runs(8192);
    ASSERT_EQ(runs.size(), 1U) << period;
    EXPECT_EQ(runs[0].nodes, (Numbers{0, 1, 2, 3})) << period;
    EXPECT_EQ(runs[0].length, 8192 * kPage);
  }
}

TEST(PageNodes, KeepsLargeInterleavingApart) {
  // 2 MiB on each node in turn, as huge pages are interleaved.
  Memory memory([](uint64_t page) { return static_cast<int>(page / 512 % 2); });
  const std::vector<NodeRun> runs = memory.runs(512 * 20);
  ASSERT_EQ(runs.size(), 20U);
  for (size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(runs[i].start, kBase + i * 2 * kMega);
    EXPECT_EQ(runs[i].length, 2 * kMega);
    EXPECT_EQ(runs[i].nodes, Numbers{static_cast<int>(i % 2)});
    EXPECT_EQ(runs[i].bytes, 2 * kMega);
  }
}

TEST(PageNodes, TellsMixedBlocksFromTheirNeighbours) {
  Memory memory(
      [](uint64_t page) { return page >= 2048 && page < 4096 ? static_cast<int>(page % 2) : 5; });
  const std::vector<NodeRun> runs = memory.runs(8192);
  ASSERT_EQ(runs.size(), 3U);
  EXPECT_EQ(runs[1].start, kBase + 2048 * kPage);
  EXPECT_EQ(runs[1].length, 2048 * kPage);
  EXPECT_EQ(runs[1].nodes, (Numbers{0, 1}));
  EXPECT_EQ(runs[2].nodes, Numbers{5});
}

TEST(PageNodes, FindsNothing_WhereNothingIs) {
  Memory memory([](uint64_t) { return -2; });
  EXPECT_TRUE(memory.runs(100'000).empty());
}

TEST(PageNodes, FindsTheTopOfAStack) {
  Memory memory([](uint64_t page) { return page >= 2040 ? 1 : -2; });
  const std::vector<NodeRun> runs = memory.runs(2048);
  ASSERT_EQ(runs.size(), 1U);
  EXPECT_EQ(runs[0].start, kBase);
  EXPECT_EQ(runs[0].length, 2048 * kPage);
  EXPECT_LE(runs[0].bytes, 64 * kPage);
}

TEST(PageNodes, LeavesOutWhatIsAbsent_OfSharedMemory) {
  Memory memory([](uint64_t page) {
    if (page < 100 || (page >= 777 && page < 3001)) return -2;
    return page < 4500 ? 0 : 1;
  });
  memory.leave_gaps();
  const std::vector<NodeRun> runs = memory.runs(5000);
  EXPECT_EQ(runs, (std::vector<NodeRun>{{kBase + 100 * kPage, 677 * kPage, {0}, 677 * kPage},
                                        {kBase + 3001 * kPage, 1499 * kPage, {0}, 1499 * kPage},
                                        {kBase + 4500 * kPage, 500 * kPage, {1}, 500 * kPage}}));
  Memory nothing([](uint64_t) { return -2; });
  nothing.leave_gaps();
  EXPECT_TRUE(nothing.runs(5000).empty());
}

TEST(PageNodes, StaysBounded_InHugeRangesAndWildOnes) {
  Memory huge([](uint64_t page) { return static_cast<int>(page / 777 % 2); });
  EXPECT_LE(huge.runs(uint64_t{1} << 28).size(), size_t{65536} / 8 + 4096 + 2);  // 1 TiB
  EXPECT_LE(huge.questions(), 65538U + 4096U * 20U);
  Memory wild([](uint64_t page) { return static_cast<int>(page / 300 % 3); });
  EXPECT_LE(wild.runs(1 << 20, 10).size(), size_t{(1 << 20) / 512 + 12});
}

// Runs are in order, whole, and cover the range, whatever the memory is like.
TEST(PageNodes, CoversTheRange_WhateverIsInIt) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const uint64_t pages = 1 + seed * seed * 7 % 5000;
    const uint64_t scale = 1 + seed * 31 % 900;
    Memory memory([&](uint64_t page) {
      const uint64_t part = (page + seed * 13) / scale;
      return static_cast<int>((part * part + seed) % 5) - 1;
    });
    uint64_t at = kBase;
    for (const NodeRun& run : memory.runs(pages)) {
      EXPECT_EQ(run.start, at) << seed;
      EXPECT_GT(run.length, 0U);
      EXPECT_FALSE(run.nodes.empty());
      at = run.start + run.length;
    }
    EXPECT_TRUE(at == kBase || at == kBase + pages * kPage) << seed;
  }
}

TEST(Survey, ClipsRuns) {
  const std::vector<NodeRun> runs{{0x10000, 0x10000, {0}, 0x8000}, {0x20000, 0x4000, {1}, 0x4000}};
  EXPECT_EQ(clip(runs, 0x18000, 0x21000),
            (std::vector<NodeRun>{{0x18000, 0x8000, {0}, 0x4000}, {0x20000, 0x1000, {1}, 0x1000}}));
  EXPECT_TRUE(clip(runs, 0x24000, 0x30000).empty());
  EXPECT_TRUE(clip(runs, 0x1000, 0x10000).empty());
}

}  // namespace
}  // namespace fermata::numa
