#include "node-agent/copy_arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "node-agent/engine/pages.h"

namespace fermata::node_agent {
namespace {

using testing::HasSubstr;

/// Every byte tells its address.
class PatternSource final : public MemorySource {
 public:
  explicit PatternSource(uint64_t fails_at = UINT64_MAX) : fails_at_(fails_at) {}
  static std::byte at(uint64_t address) {
    return static_cast<std::byte>((address * 0x9E3779B97F4A7C15U) >> 56U);
  }
  Status read(uint64_t address, std::span<std::byte> out) const override {
    if (fails_at_ >= address && fails_at_ < address + out.size()) {
      return {Code::kGone, "the process has ended"};
    }
    for (size_t i = 0; i < out.size(); ++i) out[i] = at(address + i);
    return Status::ok();
  }

 private:
  uint64_t fails_at_;
};

MemoryRegion region_of(uint64_t id, std::vector<Extent> extents, uint64_t fails_at = UINT64_MAX) {
  return {{MemoryId::Kind::kProcess, id},
          std::move(extents),
          std::make_shared<PatternSource>(fails_at)};
}

void expect_pattern(const MemoryRegion& region, uint64_t address, size_t length) {
  std::vector<std::byte> bytes(length);
  ASSERT_TRUE(region.source->read(address, bytes));
  for (size_t i = 0; i < length; ++i) {
    ASSERT_EQ(bytes[i], PatternSource::at(address + i)) << "at " << address + i;
  }
}

constexpr uint64_t kMiB = 1U << 20;

TEST(CopyArena, ScatteredPagesOfAProcess_AreCopiedAlsoWhereItMayNotReadThem) {
  constexpr size_t kPages = 3000;
  void* room = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(room, MAP_FAILED);
  auto* bytes = static_cast<unsigned char*>(room);
  const auto start = reinterpret_cast<uint64_t>(room);
  std::vector<Extent> extents;
  for (size_t page = 0; page < kPages; page += 2) {
    bytes[page * kPageSize] = static_cast<unsigned char>(page / 2);
    bytes[(page + 1) * kPageSize - 1] = static_cast<unsigned char>(page / 7);
    extents.push_back({start + page * kPageSize, kPageSize, Where::kHere});
  }
  ASSERT_EQ(::mprotect(bytes + 1000 * kPageSize, 2 * kPageSize, PROT_NONE), 0);
  const auto source = engine::ProcessMemorySource::open(::getpid());
  ASSERT_TRUE(source);
  CopyArena arena;
  const auto copies = arena.copy({{{MemoryId::Kind::kProcess, 1}, extents, *source}}, 2, true);
  ASSERT_TRUE(copies) << copies.error().message();
  for (size_t page = 0; page < kPages; page += 2) {
    std::vector<std::byte> copied(kPageSize);
    ASSERT_TRUE(copies->front().source->read(start + page * kPageSize, copied));
    ASSERT_EQ(copied.front(), static_cast<std::byte>(page / 2)) << page;
    ASSERT_EQ(copied.back(), static_cast<std::byte>(page / 7)) << page;
  }
  ::munmap(room, kPages * kPageSize);
}

TEST(CopyArena, CopyReadsAsTheOriginal_ForEveryNumberOfThreads) {
  const std::vector<MemoryRegion> regions{region_of(1, {{0x10000, 3 * kPageSize, Where::kHere},
                                                        {0x40000, kPageSize, Where::kZero},
                                                        {0x7f0000000000, 9 * kMiB, Where::kHere}}),
                                          region_of(2, {}),
                                          region_of(3, {{0, kPageSize, Where::kHere}})};
  for (const unsigned threads : {1U, 2U, 5U}) {
    CopyArena arena;
    const Result<std::vector<MemoryRegion>> copies = arena.copy(regions, threads);
    ASSERT_TRUE(copies) << copies.error().message();
    ASSERT_EQ(copies->size(), 3U);
    for (size_t i = 0; i < regions.size(); ++i) {
      EXPECT_EQ((*copies)[i].id, regions[i].id);
      EXPECT_EQ((*copies)[i].extents, regions[i].extents);
    }
    expect_pattern((*copies)[0], 0x10000, 3 * kPageSize);
    expect_pattern((*copies)[0], 0x10000 + kPageSize, kPageSize);
    expect_pattern((*copies)[0], 0x7f0000000000 + 4 * kMiB - 100, 4 * kMiB);
    expect_pattern((*copies)[2], 0, kPageSize);
  }
}

TEST(CopyArena, ReadOutsideWhatWasCopiedFails) {
  CopyArena arena;
  const auto copies = arena.copy({region_of(1, {{0x10000, 2 * kPageSize, Where::kHere}})}, 2);
  ASSERT_TRUE(copies);
  std::vector<std::byte> bytes(kPageSize);
  EXPECT_FALSE((*copies)[0].source->read(0xf000, bytes));
  EXPECT_FALSE((*copies)[0].source->read(0x12000, bytes));
  EXPECT_FALSE((*copies)[0].source->read(0x11800, bytes));
}

TEST(CopyArena, IsUsedAgain_AfterReleaseAndForMore) {
  CopyArena arena;
  ASSERT_TRUE(arena.warm(2 * kMiB));
  for (const uint64_t size : {1 * kMiB, 7 * kMiB, 3 * kMiB}) {
    const auto copies = arena.copy({region_of(size, {{size, size, Where::kHere}})}, 2);
    ASSERT_TRUE(copies);
    expect_pattern((*copies)[0], size, size);
    arena.release();
    ASSERT_TRUE(arena.warm(size));
  }
}

TEST(CopyArena, FailureOfASourceIsTold) {
  CopyArena arena;
  const auto copies = arena.copy({region_of(1, {{0, 64 * kMiB, Where::kHere}}, 33 * kMiB + 17)}, 2);
  ASSERT_FALSE(copies);
  EXPECT_EQ(copies.error().code(), Code::kGone);
  EXPECT_THAT(copies.error().message(), HasSubstr("has ended"));
}

TEST(CopyArena, NothingToCopyIsFine) {
  CopyArena arena;
  EXPECT_TRUE(arena.warm(0));
  EXPECT_TRUE(arena.copy({}, 2)->empty());
  arena.release();
}

}  // namespace
}  // namespace fermata::node_agent
