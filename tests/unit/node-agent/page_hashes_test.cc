#include "node-agent/page_hashes.h"

#include <gtest/gtest.h>

#include <cstring>

namespace fermata::node_agent {
namespace {

/// Page n of a region bears the byte content[n], all over.
class Pages final : public MemorySource {
 public:
  explicit Pages(std::vector<uint8_t> content) : content_(std::move(content)) {}
  Status read(uint64_t address, std::span<std::byte> out) const override {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<std::byte>(content_.at((address + i) / kPageSize));
    }
    return Status::ok();
  }

 private:
  std::vector<uint8_t> content_;
};

PageHashes hashes_of(const std::vector<uint8_t>& content, const Extents& extents,
                     unsigned threads = 1) {
  MemoryRegion region;
  region.extents = extents;
  region.source = std::make_shared<Pages>(content);
  auto hashes = hash_pages(region, threads);
  EXPECT_TRUE(hashes) << hashes.error().message();
  return *std::move(hashes);
}

Extents pages(std::initializer_list<uint64_t> numbers) {
  Extents out;
  for (const uint64_t number : numbers) append(out, number * kPageSize, kPageSize);
  return out;
}

TEST(PageHashes, TellWhatIsUnchangedAndWhatIsZero) {
  const PageHashes then = hashes_of({1, 2, 3, 4, 0}, pages({0, 1, 2, 4}));
  const PageHashes now = hashes_of({1, 9, 3, 4, 0}, pages({0, 1, 2, 3, 4}));
  EXPECT_EQ(unchanged_pages(now, then), pages({0, 2, 4}));  // of page 3 nothing was known
  EXPECT_EQ(zero_pages(now), pages({4}));
  EXPECT_TRUE(unchanged_pages(now, {}).empty());
}

TEST(PageHashes, OnlyAPageOfZerosIsOne) {
  MemoryRegion region;
  region.extents = pages({0});
  class LastByte final : public MemorySource {
    Status read(uint64_t, std::span<std::byte> out) const override {
      std::memset(out.data(), 0, out.size());
      out.back() = std::byte{1};
      return Status::ok();
    }
  };
  region.source = std::make_shared<LastByte>();
  const auto hashes = hash_pages(region, 1);
  ASSERT_TRUE(hashes) << hashes.error().message();
  EXPECT_TRUE(zero_pages(*hashes).empty());
}

TEST(PageHashes, AreThoseOfWhatIsHere) {
  MemoryRegion region;
  region.extents = merged(pages({1, 3}), Extents{{0, kPageSize, Where::kParent}});
  region.source = std::make_shared<Pages>(std::vector<uint8_t>{1, 2, 3, 4});
  const auto hashes = hash_pages(region, 2);
  ASSERT_TRUE(hashes) << hashes.error().message();
  EXPECT_EQ(hashes->pages, pages({1, 3}));
  EXPECT_EQ(hashes->hashes.size(), 2U);
}

TEST(PageHashes, AreTheSame_HoweverManyReadThem) {
  std::vector<uint8_t> content(3000);
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<uint8_t>(i * 7 + i / 256);
  const Extents extents{{0, 1000 * kPageSize}, {1001 * kPageSize, 1999 * kPageSize}};
  EXPECT_EQ(hashes_of(content, extents, 1).hashes, hashes_of(content, extents, 4).hashes);
}

TEST(PageHashes, AreCombined_NewerBeforeOlder) {
  const PageHashes older = hashes_of({1, 2, 3, 4}, pages({0, 1, 2}));
  const PageHashes newer = hashes_of({1, 8, 3, 4}, pages({1, 3}));
  const PageHashes both = combined(older, newer, pages({0, 1, 3}));
  EXPECT_EQ(both.pages, pages({0, 1, 3}));
  EXPECT_EQ(both.hashes, hashes_of({1, 8, 3, 4}, pages({0, 1, 3})).hashes);
}

}  // namespace
}  // namespace fermata::node_agent
