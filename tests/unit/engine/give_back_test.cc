#include "node-agent/engine/give_back.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace fermata::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Range = GiveBack::Range;

constexpr uint64_t kHuge = 2 << 20;
constexpr uint64_t kAll = 1000;

TEST(GiveBack, GivesWholeHugePages_AndTheRestWhenTheMapEndsThere) {
  const Range map{kHuge + 8 * kPageSize, 3 * kHuge + 4 * kPageSize};
  GiveBack unneeded({map}, {{map.start, map.end - map.start}});
  EXPECT_THAT(unneeded.take(kAll), IsEmpty());
  unneeded.was_read(2 * kHuge, kHuge / 2);
  EXPECT_THAT(unneeded.take(kAll), IsEmpty());
  unneeded.was_read(map.start, 2 * kHuge - map.start);
  EXPECT_THAT(unneeded.take(kAll), ElementsAre(Range{map.start, 2 * kHuge}));
  unneeded.was_read(2 * kHuge + kHuge / 2, kHuge / 2);
  EXPECT_THAT(unneeded.take(kAll), ElementsAre(Range{2 * kHuge, 3 * kHuge}));
  EXPECT_FALSE(unneeded.all_read());
  unneeded.was_read(3 * kHuge, 4 * kPageSize);
  EXPECT_THAT(unneeded.take(kAll), ElementsAre(Range{3 * kHuge, map.end}));
  EXPECT_TRUE(unneeded.all_read());
}

TEST(GiveBack, GivesAtOnceWhatNobodyNeeds_AndSmallGapsWithWhatLiesBefore) {
  const Range map{0, 8 * kHuge};
  GiveBack unneeded({map, {9 * kHuge, 10 * kHuge}},
                    {{4 * kHuge + kPageSize, kPageSize}, {4 * kHuge + 8 * kPageSize, kPageSize}});
  EXPECT_THAT(unneeded.take(kAll), ElementsAre(Range{0, 4 * kHuge}, Range{5 * kHuge, 8 * kHuge},
                                               Range{9 * kHuge, 10 * kHuge}));
  unneeded.was_read(4 * kHuge + kPageSize, kPageSize);
  EXPECT_THAT(unneeded.take(kAll), IsEmpty());
  unneeded.was_read(4 * kHuge + 8 * kPageSize, kPageSize);
  EXPECT_THAT(unneeded.take(kAll), ElementsAre(Range{4 * kHuge, 5 * kHuge}));
}

TEST(GiveBack, GivesALargeMapInPieces_SoThatItsProcessCanBeFrozenInBetween) {
  constexpr uint64_t kPiece = 32 * kHuge;
  GiveBack unneeded({{0, 2 * kPiece + kPageSize}}, {});
  EXPECT_THAT(unneeded.take(kAll), ElementsAre(Range{0, kPiece}, Range{kPiece, 2 * kPiece},
                                               Range{2 * kPiece, 2 * kPiece + kPageSize}));
}

TEST(GiveBack, LeavesOtherMapsAlone) {
  GiveBack unneeded({{kHuge, 2 * kHuge}}, {{0, 3 * kHuge}});
  unneeded.was_read(0, kHuge);
  EXPECT_THAT(unneeded.take(kAll), IsEmpty());
  unneeded.was_read(kHuge, 2 * kHuge);
  EXPECT_THAT(unneeded.take(kAll), ElementsAre(Range{kHuge, 2 * kHuge}));
  EXPECT_TRUE(unneeded.all_read());
}

TEST(GiveBack, TakesNoMoreThanAskedFor) {
  GiveBack unneeded({{0, kPageSize}, {2 * kPageSize, 3 * kPageSize}}, {});
  EXPECT_EQ(unneeded.ranges(), 2U);
  EXPECT_EQ(unneeded.bytes(), 2 * kPageSize);
  EXPECT_EQ(unneeded.take(1).size(), 1U);
  EXPECT_EQ(unneeded.take(kAll).size(), 1U);
  EXPECT_THAT(unneeded.take(kAll), IsEmpty());
}

/// Whatever is read in whatever order: nothing goes before it was read, all goes in the end, once.
TEST(GiveBack, KeepsWhatIsStillToBeRead_InAnyOrder) {
  std::mt19937 dice(17);
  for (int round = 0; round < 50; ++round) {
    std::vector<Range> maps;
    Extents needed;
    Extents pieces;
    uint64_t at = 0;
    for (int map = 0; map < 5; ++map) {
      const uint64_t start = at + dice() % 300 * kPageSize;
      at = start + (1 + dice() % 2000) * kPageSize;
      maps.push_back({start, at});
      for (uint64_t page = start; page < at;) {
        const uint64_t length = std::min((1 + dice() % 200) * kPageSize, at - page);
        if (dice() % 3 != 0) {
          append(needed, page, length);
          pieces.push_back({page, length});
        }
        page += length;
      }
    }
    std::shuffle(pieces.begin(), pieces.end(), dice);
    GiveBack unneeded(maps, needed);
    Extents left = needed;
    Extents gone;
    const auto check = [&] {
      for (const Range& range : unneeded.take(kAll)) {
        const Extents told{{range.start, range.end - range.start}};
        ASSERT_THAT(common_part(told, left), IsEmpty());
        ASSERT_THAT(common_part(told, gone), IsEmpty());
        gone = united(gone, told);
      }
    };
    check();
    for (const Extent& piece : pieces) {
      unneeded.was_read(piece.address, piece.length);
      left = without(left, {piece});
      check();
    }
    ASSERT_TRUE(unneeded.all_read());
    Extents all;
    for (const Range& map : maps) append(all, map.start, map.end - map.start);
    ASSERT_EQ(gone, all);
  }
}

}  // namespace
}  // namespace fermata::engine
