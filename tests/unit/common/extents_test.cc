#include "common/extents.h"

#include <gtest/gtest.h>

#include <random>

namespace fermata {
namespace {

constexpr uint64_t kPages = 64;

/// Pages 0 to 63 as bits.
uint64_t bits_of(const Extents& extents) {
  uint64_t bits = 0;
  for (const Extent& extent : extents) {
    for (uint64_t at = extent.address; at < extent.address + extent.length; at += kPageSize) {
      bits |= uint64_t{1} << (at / kPageSize);
    }
  }
  return bits;
}

Extents extents_of(uint64_t bits) {
  Extents extents;
  for (uint64_t page = 0; page < kPages; ++page) {
    if ((bits >> page & 1) != 0) append(extents, page * kPageSize, kPageSize);
  }
  return extents;
}

TEST(Extents, AreSetsOfPages) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 20'000; ++round) {
    // Few and many, in long and in short runs.
    const uint64_t a = random() & random() & (random() | random());
    const uint64_t b = random() | (random() << (random() % kPages));
    const Extents left = extents_of(a);
    const Extents right = extents_of(b);
    ASSERT_EQ(united(left, right), extents_of(a | b));
    ASSERT_EQ(common_part(left, right), extents_of(a & b));
    ASSERT_EQ(without(left, right), extents_of(a & ~b));
    ASSERT_EQ(without(right, left), extents_of(b & ~a));
    ASSERT_EQ(bits_of(united(left, right)), a | b);
    const uint64_t from = random() % kPages;
    const uint64_t to = from + random() % (kPages - from) + 1;
    const uint64_t mask =
        (to == kPages ? ~uint64_t{0} : (uint64_t{1} << to) - 1) & ~((uint64_t{1} << from) - 1);
    ASSERT_EQ(part_of(left, from * kPageSize, to * kPageSize), extents_of(a & mask));
    ASSERT_EQ(total_length(left), kPageSize * static_cast<uint64_t>(__builtin_popcountll(a)));
  }
}

TEST(Extents, KeepWhereTheyAre_WhenMerged) {
  Extents parent;
  append(parent, 0x1000, 0x2000, Where::kParent);
  const Extents here{{0x3000, 0x1000, Where::kHere}};
  const Extents all = merged(here, parent);
  EXPECT_EQ(all, (Extents{{0x1000, 0x2000, Where::kParent}, {0x3000, 0x1000, Where::kHere}}));
  EXPECT_EQ(only(all, Where::kHere), here);
  EXPECT_EQ(total_length(only(all, Where::kParent)), 0x2000U);
  EXPECT_TRUE(only(all, Where::kZero).empty());
}

TEST(Extents, AreJoined_OnlyWhereTheyTouchAndAreAlike) {
  Extents extents;
  append(extents, 0x1000, 0x1000);
  append(extents, 0x2000, 0x1000);
  append(extents, 0x3000, 0x1000, Where::kZero);
  append(extents, 0x5000, 0x1000, Where::kZero);
  append(extents, 0x6000, 0, Where::kZero);
  EXPECT_EQ(extents, (Extents{{0x1000, 0x2000, Where::kHere},
                              {0x3000, 0x1000, Where::kZero},
                              {0x5000, 0x1000, Where::kZero}}));
}

}  // namespace
}  // namespace fermata
