#include <gtest/gtest.h>
#include <linux/mempolicy.h>

#include "numa/numa_maps.h"
#include "numa/number_list.h"
#include "numa/page_nodes.h"

namespace fermata::numa {
namespace {

constexpr uint64_t kPage = 0x1000;

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

TEST(NumaMaps, KnowsEveryPolicy) {
  const struct {
    const char* text;
    int mode;
    std::vector<int> nodes;
  } cases[] = {
      {"default", MPOL_DEFAULT, {}},
      {"local", MPOL_LOCAL, {}},
      {"bind:0", MPOL_BIND, {0}},
      {"prefer:1", MPOL_PREFERRED, {1}},
      {"interleave:0-1,3", MPOL_INTERLEAVE, {0, 1, 3}},
      {"prefer (many):0-1", MPOL_PREFERRED_MANY, {0, 1}},
      {"weighted interleave:0-1", 6, {0, 1}},
      {"bind=static:2", MPOL_BIND | MPOL_F_STATIC_NODES, {2}},
      {"interleave=relative:0-1", MPOL_INTERLEAVE | MPOL_F_RELATIVE_NODES, {0, 1}},
  };
  for (const auto& one : cases) {
    const std::string line = std::string("7f0012345000 ") + one.text +
                             " anon=7 dirty=7 active=0 N0=5 N12=2 kernelpagesize_kB=4";
    const auto map = parse_numa_maps_line(line);
    ASSERT_TRUE(map) << line;
    EXPECT_EQ(map->start, 0x7f0012345000U);
    EXPECT_EQ(map->policy_mode, one.mode) << line;
    EXPECT_EQ(map->policy_nodes, one.nodes) << line;
    EXPECT_EQ(map->pages, (std::map<int, uint64_t>{{0, 5}, {12, 2}})) << line;
  }
}

TEST(NumaMaps, TakesNamesForNoNodes) {
  const auto map = parse_numa_maps_line("400000 default file=/tmp/N0=3 mapped=2 N1=2");
  ASSERT_TRUE(map);
  EXPECT_EQ(map->pages, (std::map<int, uint64_t>{{1, 2}}));
  EXPECT_FALSE(parse_numa_maps_line(""));
  EXPECT_FALSE(parse_numa_maps_line("xyz default"));
  EXPECT_FALSE(parse_numa_maps_line("400000 a-new-policy:0 N0=1"));
  EXPECT_EQ(parse_numa_maps("400000 default\nnonsense\n500000 local N0=1\n").size(), 2U);
}

TEST(RunBuilder, MergesPagesOfOneNode) {
  RunBuilder runs(0x10000, 0x20000, 100);
  for (const uint64_t page : {0x11000U, 0x12000U, 0x15000U}) runs.add(page, 0);
  for (const uint64_t page : {0x16000U, 0x1f000U}) runs.add(page, 1);
  EXPECT_EQ(runs.take(), (std::vector<NodeRun>{{0x11000, 0x5000, 0}, {0x16000, 0xa000, 1}}));
}

TEST(RunBuilder, TakesTheMajority_BeyondTheLimit) {
  RunBuilder runs(0, kPage * 1000, 10);  // steps of 100 pages
  for (uint64_t page = 0; page < 1000; ++page) {
    runs.add(page * kPage, page % 100 < 60 ? static_cast<int>(page / 500) : 2);
  }
  EXPECT_EQ(runs.take(),
            (std::vector<NodeRun>{{0, kPage * 500, 0}, {kPage * 500, kPage * 500, 1}}));
}

TEST(RunBuilder, StaysBelowTheLimit_WhenNodesAlternate) {
  RunBuilder runs(0, kPage * 100000, 64);
  for (uint64_t page = 0; page < 100000; ++page) runs.add(page * kPage, static_cast<int>(page % 2));
  EXPECT_LE(runs.take().size(), 64U);
}

}  // namespace
}  // namespace fermata::numa
