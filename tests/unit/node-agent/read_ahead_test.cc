#include "node-agent/read_ahead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace fermata::node_agent {
namespace {

constexpr uint64_t kBase = 0x10000000;
constexpr uint64_t kUnit = 2U << 20;

/// Bytes that tell their address; counts who reads what.
class Source final : public MemorySource {
 public:
  Status read(uint64_t address, std::span<std::byte> out) const override {
    if (fails) return {Code::kStorage, "this fails"};
    for (size_t i = 0; i + sizeof address <= out.size(); i += sizeof address) {
      const uint64_t word = address + i;
      std::memcpy(out.data() + i, &word, sizeof word);
    }
    bytes += out.size();
    return Status::ok();
  }
  mutable std::atomic<uint64_t> bytes{0};
  std::atomic<bool> fails{false};
};

MemoryRegion region_of(std::shared_ptr<Source> source, uint64_t bytes) {
  MemoryRegion region;
  region.id = {MemoryId::Kind::kProcess, 1};
  // With a gap, so that units have more than one piece.
  region.extents = {{kBase, bytes / 2 + kPageSize, Where::kHere},
                    {kBase + bytes, bytes / 2 - kPageSize, Where::kHere}};
  region.source = std::move(source);
  return region;
}

bool is_right(const MemorySource& source, uint64_t address, uint64_t length) {
  std::vector<std::byte> out(length);
  if (!source.read(address, out)) return false;
  for (uint64_t i = 0; i < length; i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, out.data() + i, sizeof word);
    if (word != address + i) return false;
  }
  return true;
}

TEST(ReadAhead, GivesWhatTheSourceHasWhateverIsReadAndWhen) {
  constexpr uint64_t kBytes = 48U << 20;
  auto source = std::make_shared<Source>();
  std::vector<MemoryRegion> memory{region_of(source, kBytes)};
  begin_to_read_ahead(memory, 16U << 20);
  ASSERT_NE(memory[0].source, source);
  const auto read_all = [&] {
    bool good = true;
    for (const Extent& extent : memory[0].extents) {
      for (uint64_t at = 0; at < extent.length; at += kUnit) {
        good = good && is_right(*memory[0].source, extent.address + at,
                                std::min(kUnit, extent.length - at));
      }
    }
    return good;
  };
  bool other = false;
  std::thread reader([&] { other = read_all(); });
  EXPECT_TRUE(read_all());
  reader.join();
  EXPECT_TRUE(other);
  // Twice, and in pieces that no unit has.
  EXPECT_TRUE(is_right(*memory[0].source, kBase + kPageSize, kPageSize));
  EXPECT_TRUE(is_right(*memory[0].source, kBase + kUnit - kPageSize, 2 * kPageSize));
}

TEST(ReadAhead, ReadsNoMoreThanItMay) {
  auto source = std::make_shared<Source>();
  constexpr uint64_t kMost = 4 * kUnit;
  {
    std::vector<MemoryRegion> memory{region_of(source, 64U << 20)};
    begin_to_read_ahead(memory, kMost);
    while (source->bytes < kMost) std::this_thread::yield();
    // What is read is not read again.
    EXPECT_TRUE(is_right(*memory[0].source, kBase, kUnit));
    EXPECT_TRUE(is_right(*memory[0].source, kBase + 3 * kUnit, kUnit));
  }
  EXPECT_EQ(source->bytes, kMost);
}

TEST(ReadAhead, LittleMemoryIsReadWhenItIsAskedFor) {
  auto source = std::make_shared<Source>();
  std::vector<MemoryRegion> memory{region_of(source, 4U << 20)};
  begin_to_read_ahead(memory);
  EXPECT_EQ(memory[0].source, source);
  std::vector<MemoryRegion> none;
  begin_to_read_ahead(none);
}

TEST(ReadAhead, AFailureIsToldToWhoAsks) {
  auto source = std::make_shared<Source>();
  source->fails = true;
  std::vector<MemoryRegion> memory{region_of(source, 64U << 20)};
  begin_to_read_ahead(memory, 8 * kUnit);
  std::vector<std::byte> out(kPageSize);
  EXPECT_EQ(memory[0].source->read(kBase, out).code(), Code::kStorage);
  source->fails = false;  // what was read in vain is read again
  EXPECT_TRUE(is_right(*memory[0].source, kBase + kUnit, kPageSize));
}

}  // namespace
}  // namespace fermata::node_agent
