#include "storage/chain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "common/extents.h"
#include "storage/flatten.h"
#include "storage/image_reader.h"
#include "tests/unit/storage/sample_image.h"

namespace fermata::storage {
namespace {

using test::byte_at;
using test::PatternSource;
using test::sample_image;
using test::write_image;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr JobStep kJob{1234, 1};
constexpr uint64_t kBase = 0x7f0000000000;
constexpr uint64_t kPages = 600;  // more than one block of checksums

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().native());
  }
  return names;
}

/// A job of one process whose pages have a writer: the set in which they were written last.
class ChainTest : public ::testing::Test {
 protected:
  /// Takes a set in which the pages of `written` are new and those of `gone` are no more.
  void take(uint64_t crid, uint64_t parent, const std::vector<uint64_t>& written,
            const std::vector<uint64_t>& gone = {}) {
    for (const uint64_t page : written) writer_[page] = crid;
    for (const uint64_t page : gone) writer_.erase(page);
    content_[crid] = writer_;
    PodImage image = sample_image();
    image.header.crid = {crid};
    image.header.parent = {parent};
    image.header.job = kJob;
    image.memory.clear();
    MemoryRegion region;
    region.id = {MemoryId::Kind::kProcess, 7};
    for (const auto& [page, by] : writer_) {
      append(region.extents, kBase + page * kPageSize, kPageSize,
             parent == 0 || by == crid ? Where::kHere : Where::kParent);
    }
    region.source = std::make_shared<PatternSource>(crid);
    // In a full image each page still has the bytes of who wrote it.
    if (parent == 0) region.source = std::make_shared<Written>(writer_);
    image.memory.push_back(region);
    put(image);
  }

  void put(const PodImage& image) {
    const Crid crid = image.header.crid;
    const auto folder = make_set_folder(folder_.path(), kJob, crid);
    ASSERT_TRUE(folder) << folder.error().message();
    const auto written = write_image(*folder / "pod-3.h5", image);
    ASSERT_TRUE(written) << written.error().message();
    Manifest manifest;
    manifest.crid = crid;
    manifest.parent = image.header.parent;
    manifest.job = kJob;
    manifest.time = utc_now();
    manifest.images.push_back({3, "n", "pod-3.h5", written->bytes, 4096, written->digest});
    ASSERT_TRUE(write_manifest(*folder, manifest));
  }

  std::filesystem::path folder(uint64_t crid) const {
    return set_folder(folder_.path(), kJob, {crid});
  }
  std::filesystem::path image(uint64_t crid) const { return folder(crid) / "pod-3.h5"; }

  /// Every page of the set as the chain gives it.
  void expect_content(uint64_t crid) {
    const auto read = read_chain(image(crid));
    ASSERT_TRUE(read) << crid << ": " << read.error().message();
    const MemoryRegion& region = read->memory.at(0);
    ASSERT_EQ(total_length(region.extents), content_[crid].size() * kPageSize);
    for (const Extent& extent : region.extents) {
      ASSERT_EQ(extent.where, Where::kHere);
      std::vector<std::byte> bytes(extent.length);
      ASSERT_TRUE(region.source->read(extent.address, bytes));
      for (uint64_t at = 0; at < extent.length; at += 64) {
        const uint64_t address = extent.address + at;
        const uint64_t by = content_[crid].at((address - kBase) / kPageSize);
        ASSERT_EQ(bytes[at], byte_at(by, address)) << crid << " at " << address;
      }
    }
  }

  class Written final : public MemorySource {
   public:
    explicit Written(std::map<uint64_t, uint64_t> writer) : writer_(std::move(writer)) {}
    Status read(uint64_t address, std::span<std::byte> out) const override {
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = byte_at(writer_.at((address + i - kBase) / kPageSize), address + i);
      }
      return Status::ok();
    }

   private:
    std::map<uint64_t, uint64_t> writer_;
  };

  std::vector<uint64_t> all_pages() const {
    std::vector<uint64_t> pages(kPages);
    for (uint64_t i = 0; i < kPages; ++i) pages[i] = i;
    return pages;
  }

  ScratchFolder folder_;
  std::map<uint64_t, uint64_t> writer_;                       // page: crid
  std::map<uint64_t, std::map<uint64_t, uint64_t>> content_;  // by crid
};

TEST_F(ChainTest, GivesEachPageOfEachMember_AsItWasThere) {
  take(1, 0, all_pages());
  std::mt19937_64 random(1);
  for (uint64_t crid = 2; crid < 20; ++crid) {
    std::vector<uint64_t> written;
    std::vector<uint64_t> gone;
    for (int i = 0; i < 40; ++i) written.push_back(random() % (kPages + 50));
    for (int i = 0; i < 5; ++i) gone.push_back(random() % kPages);
    take(crid, crid - 1, written, gone);
  }
  for (uint64_t crid = 1; crid < 20; ++crid) expect_content(crid);
  const auto chain = chain_of(image(19), {});
  ASSERT_TRUE(chain) << chain.error().message();
  EXPECT_EQ(chain->size(), 19U);
  EXPECT_EQ(chain->back().crid.value, 1U);
  const auto ancestors = ancestors_of(folder(19), *read_manifest(folder(19)));
  ASSERT_TRUE(ancestors) << ancestors.error().message();
  EXPECT_EQ(ancestors->size(), 18U);
}

TEST_F(ChainTest, IsReadInPieces_AcrossImages) {
  take(1, 0, all_pages());
  take(2, 1, {3, 4, 5, 100, 300, 301});
  const auto read = read_chain(image(2));
  ASSERT_TRUE(read) << read.error().message();
  const MemoryRegion& region = read->memory[0];
  ASSERT_EQ(region.extents.size(), 1U);
  std::mt19937_64 random(2);
  for (int i = 0; i < 300; ++i) {
    const uint64_t at = random() % (kPages * kPageSize);
    std::vector<std::byte> bytes(1 +
                                 random() % std::min<uint64_t>(90'000, kPages * kPageSize - at));
    ASSERT_TRUE(region.source->read(kBase + at, bytes));
    for (size_t b = 0; b < bytes.size(); b += 97) {
      const uint64_t address = kBase + at + b;
      ASSERT_EQ(bytes[b], byte_at(writer_.at((at + b) / kPageSize), address));
    }
  }
}

TEST_F(ChainTest, IsFlattened_AndItsChildrenGoOn) {
  take(1, 0, all_pages());
  take(2, 1, {3, 4, 5});
  take(3, 2, {5, 6}, {4});
  const auto flat = flatten_set(folder(2), 2, Compression::kNone);
  ASSERT_TRUE(flat) << flat.error().message();
  EXPECT_EQ(flat->parent, Crid{});
  EXPECT_EQ(flat->images[0].file, "pod-3.full.h5");
  EXPECT_FALSE(std::filesystem::exists(folder(2) / "pod-3.h5"));
  ASSERT_TRUE(verify_image(folder(2) / "pod-3.full.h5", flat->images[0].digest));
  std::filesystem::remove_all(folder(1));
  const auto alone = read_chain(folder(2) / "pod-3.full.h5");
  ASSERT_TRUE(alone) << alone.error().message();
  EXPECT_EQ(alone->header.parent, Crid{});
  expect_content(3);
  // Once more is no change.
  const auto again = flatten_set(folder(2), 2, Compression::kNone);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->images[0].digest, flat->images[0].digest);
}

TEST_F(ChainTest, IsFlattened_WhateverOneThatWasKilledLeft) {
  take(1, 0, all_pages());
  take(2, 1, {3, 4, 5});
  std::ofstream(folder(2) / "pod-3.full.h5") << "half";
  std::ofstream(folder(2) / "pod-3.full.h5.part") << "less";
  std::ofstream(folder(2) / "set.json.part-Ab3dE9") << "{";
  std::ofstream(folder(2) / "notes") << "the user's";
  std::ofstream(folder(2) / "pod-0.h5.bak") << "the user's";
  expect_content(2);
  ASSERT_TRUE(flatten_set(folder(2), 1, Compression::kNone));
  EXPECT_THAT(names_in(folder(2)),
              UnorderedElementsAre("notes", "pod-0.h5.bak", "pod-3.full.h5", "set.json"));
  const auto read =
      read_chain(folder(2) / "pod-3.full.h5", read_manifest(folder(2))->images[0].digest);
  ASSERT_TRUE(read) << read.error().message();
}

// As by a prune on another machine, whose file system has no locks for both.
TEST_F(ChainTest, IsNotBroughtBack_WhenItIsRemovedMeanwhile) {
  take(1, 0, all_pages());
  take(2, 1, {3, 4, 5});
  const auto remove_it = [&](uint64_t, uint64_t) {
    std::filesystem::remove(folder(2) / "set.json");
  };
  const auto flat = flatten_set(folder(2), 1, Compression::kNone, remove_it);
  ASSERT_FALSE(flat);
  EXPECT_EQ(flat.error().code(), Code::kNotFound);
  EXPECT_THAT(names_in(folder(2)), UnorderedElementsAre("pod-3.h5"));
}

// Killed between the manifest that names the new image and the removal of the old one.
TEST_F(ChainTest, LosesWhatItsFlatteningLeft_ThoughItIsFlat) {
  take(1, 0, all_pages());
  take(2, 1, {3, 4, 5});
  ASSERT_TRUE(flatten_set(folder(2), 1, Compression::kNone));
  std::ofstream(folder(2) / "pod-3.h5") << "the image before";
  ASSERT_TRUE(flatten_set(folder(2), 1, Compression::kNone));
  EXPECT_THAT(names_in(folder(2)), UnorderedElementsAre("pod-3.full.h5", "set.json"));
  EXPECT_TRUE(read_chain(folder(2) / "pod-3.full.h5"));
}

TEST_F(ChainTest, StaysAsItIs_WhenItCannotBeFlattened) {
  take(1, 0, all_pages());
  take(2, 1, {3, 4, 5});
  std::filesystem::rename(folder(1), folder_ / "away");
  const auto flat = flatten_set(folder(2), 1, Compression::kNone);
  ASSERT_FALSE(flat);
  EXPECT_EQ(flat.error().code(), Code::kDamaged);
  EXPECT_FALSE(std::filesystem::exists(folder(2) / "pod-3.full.h5"));
  std::filesystem::rename(folder_ / "away", folder(1));
  expect_content(2);
}

TEST_F(ChainTest, NamesBothSets_WhenAParentIsMissing) {
  take(1, 0, {0, 1, 2});
  take(2, 1, {1});
  take(3, 2, {2});
  std::filesystem::remove_all(folder(1));
  const auto read = read_chain(image(3));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kDamaged);
  EXPECT_THAT(read.error().message(), HasSubstr("set 2 builds on set 1, which cannot be used"));
  EXPECT_FALSE(chain_of(image(3), {}));
  EXPECT_FALSE(ancestors_of(folder(3), *read_manifest(folder(3))));
}

TEST_F(ChainTest, IsRefused_WhenAParentIsNotCommitted) {
  take(1, 0, {0, 1, 2});
  take(2, 1, {1});
  std::filesystem::remove(folder(1) / "set.json");
  const auto read = read_chain(image(2));
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message(), HasSubstr("set 2 builds on set 1"));
}

TEST_F(ChainTest, IsRefused_WhenAParentIsAnotherImageThanWasCommitted) {
  take(1, 0, {0, 1, 2});
  take(2, 1, {1});
  const std::filesystem::path first = image(1);
  PodImage other = sample_image();
  other.header.crid = {1};
  other.header.job = kJob;
  std::filesystem::remove(first);
  ASSERT_TRUE(write_image(first, other));
  const auto read = read_chain(image(2));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kDamaged);
  EXPECT_THAT(read.error().message(), HasSubstr("digest"));
}

TEST_F(ChainTest, IsRefused_WhenAParentDoesNotHaveAPage) {
  take(1, 0, {0, 1, 2});
  PodImage image_of_2 = sample_image();
  image_of_2.header.crid = {2};
  image_of_2.header.parent = {1};
  image_of_2.header.job = kJob;
  image_of_2.memory.clear();
  image_of_2.memory.push_back(
      test::region(MemoryId::Kind::kProcess, 7, {{kBase, 4 * kPageSize, Where::kParent}}));
  put(image_of_2);
  const auto read = read_chain(image(2));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kDamaged);
  EXPECT_THAT(read.error().message(), HasSubstr("it does not have the page 0x7f0000003000"));
}

TEST_F(ChainTest, DoesNotLeadToItselfOrToYoungerSets) {
  take(1, 0, {0, 1, 2});
  PodImage image_of_2 = sample_image();
  image_of_2.header.crid = {2};
  image_of_2.header.parent = {2};
  image_of_2.header.job = kJob;
  ScratchFolder beside;
  ASSERT_TRUE(write_image(beside / "pod-3.h5", image_of_2));
  const auto read = read_chain(beside / "pod-3.h5");
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kDamaged);
  image_of_2.header.parent = {9};
  ASSERT_TRUE(write_image(beside / "other.h5", image_of_2));
  EXPECT_FALSE(read_chain(beside / "other.h5"));
}

TEST_F(ChainTest, HasAnEnd_HoweverManyImagesThereAre) {
  take(1, 0, {0});
  for (uint64_t crid = 2; crid <= kLongestChain + 1; ++crid) take(crid, crid - 1, {1});
  // Page 0 is only in the first: one image too many.
  const auto read = read_chain(image(kLongestChain + 1));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kDamaged);
  EXPECT_FALSE(chain_of(image(kLongestChain + 1), {}));
  expect_content(kLongestChain);
}

}  // namespace
}  // namespace fermata::storage
