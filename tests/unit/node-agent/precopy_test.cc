#include "node-agent/precopy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

namespace fermata::node_agent {
namespace {

constexpr uint64_t kBase = 0x7f0000000000;
constexpr MemoryId kProcess{MemoryId::Kind::kProcess, 3};
constexpr MemoryId kObject{MemoryId::Kind::kObject, 3};

uint64_t page(uint64_t number) { return kBase + number * kPageSize; }
Extent pages(uint64_t first, uint64_t count) { return {page(first), count * kPageSize}; }

/// All of memory reads as one byte, but for one page that cannot be read.
class OneByte final : public MemorySource {
 public:
  explicit OneByte(int byte, uint64_t lost = 0) : byte_(byte), lost_(lost) {}
  Status read(uint64_t address, std::span<std::byte> out) const override {
    if (lost_ >= address && lost_ < address + out.size()) return {Code::kGone, "unmapped"};
    std::fill(out.begin(), out.end(), static_cast<std::byte>(byte_));
    return Status::ok();
  }

 private:
  int byte_;
  uint64_t lost_;
};

std::vector<MemoryRegion> memory(const Extents& extents, int byte, uint64_t lost = 0) {
  return {{kProcess, extents, std::make_shared<OneByte>(byte, lost)}};
}

/// Of a region of several pages the byte that stands in each; -1: they differ within a page.
std::vector<int> bytes_of(const MemoryRegion& region, const Extent& extent) {
  std::vector<std::byte> bytes(extent.length);
  const Status read = region.source->read(extent.address, bytes);
  EXPECT_TRUE(read) << read.message();
  std::vector<int> first;
  for (size_t at = 0; at < bytes.size(); at += kPageSize) {
    const bool same = bytes[at] == bytes[at + kPageSize - 1];
    first.push_back(same ? std::to_integer<int>(bytes[at]) : -1);
  }
  return first;
}

class PrecopyOfPages : public testing::Test {
 protected:
  Status add(const std::vector<MemoryRegion>& regions) {
    return ahead_.add(regions, std::chrono::steady_clock::now() + std::chrono::hours(1));
  }
  CopyArena arena_;
  Precopy ahead_{arena_};
};

TEST_F(PrecopyOfPages, LaterRoundsTakeThePlaceOfEarlierOnes) {
  ASSERT_TRUE(add(memory({pages(0, 4), pages(8, 4)}, 1)));
  EXPECT_EQ(ahead_.size(), 8 * kPageSize);
  ASSERT_TRUE(add(memory({pages(2, 3), pages(7, 2), pages(20, 1)}, 2)));
  EXPECT_EQ(ahead_.size(), 11 * kPageSize);  // 4, 7 and 20 are new
  const auto all = memory({pages(0, 5), pages(7, 5), pages(20, 1)}, 9);
  const auto joined = ahead_.joined(all, memory({}, 9));
  EXPECT_EQ(bytes_of(joined[0], pages(0, 5)), (std::vector<int>{1, 1, 2, 2, 2}));
  EXPECT_EQ(bytes_of(joined[0], pages(7, 5)), (std::vector<int>{2, 2, 1, 1, 1}));
  EXPECT_EQ(bytes_of(joined[0], pages(20, 1)), (std::vector<int>{2}));
}

TEST_F(PrecopyOfPages, WhatIsCopiedAtTheCutComesBeforeWhatWasBefore) {
  ASSERT_TRUE(add(memory({pages(0, 6)}, 1)));
  const auto all = memory({pages(0, 8)}, 9);
  const auto joined = ahead_.joined(all, memory({pages(1, 2), pages(5, 3)}, 7));
  EXPECT_EQ(joined[0].extents, all[0].extents);
  EXPECT_EQ(bytes_of(joined[0], pages(0, 8)), (std::vector<int>{1, 7, 7, 1, 1, 7, 7, 7}));
}

TEST_F(PrecopyOfPages, WithoutWordOfItsTracker_AllIsCopiedAtTheCut) {
  ASSERT_TRUE(add(memory({pages(0, 6)}, 1)));
  const WriteTracking knows_nothing;
  const auto rest = ahead_.rest(memory({pages(0, 6)}, 9), knows_nothing);
  ASSERT_EQ(rest.size(), 1U);
  EXPECT_EQ(rest[0].extents, (Extents{pages(0, 6)}));
}

TEST_F(PrecopyOfPages, WhatHasNoCopyIsCopiedAtTheCut_AndWhatIsInTheParentIsNot) {
  ASSERT_TRUE(add(memory({pages(0, 2)}, 1)));
  std::vector<MemoryRegion> all{{kObject, {pages(0, 3)}, std::make_shared<OneByte>(5)}};
  all[0].extents.push_back({page(9), kPageSize, Where::kParent});
  const auto rest = ahead_.rest(all, WriteTracking());
  EXPECT_EQ(rest[0].extents, (Extents{pages(0, 3)}));
}

TEST_F(PrecopyOfPages, APageThatIsGoneFailsNoRound) {
  ASSERT_TRUE(add(memory({pages(0, 2), pages(4, 2)}, 1, page(5))));
  ASSERT_TRUE(add(memory({pages(0, 1)}, 2)));
  EXPECT_EQ(ahead_.size(), 4 * kPageSize);
  ahead_.begin();
  EXPECT_FALSE(ahead_.begun());
}

}  // namespace
}  // namespace fermata::node_agent
