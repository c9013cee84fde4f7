#include "storage/manifest.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <span>
#include <sstream>

#include "storage/checksum.h"
#include "storage/image.h"
#include "tests/unit/storage/sample_image.h"

namespace fermata::storage {
namespace {

using ::testing::HasSubstr;

Manifest sample_manifest(uint64_t crid = 9) {
  Manifest manifest;
  manifest.crid = {crid};
  manifest.job = {1234, 0};
  manifest.ranks = 4;
  manifest.command = {"lmp", "-in", "in.melt", "\xff not UTF-8"};
  manifest.user = "alice";
  manifest.time = utc_now();
  manifest.tool_version = "0.1.0";
  const std::string digest(32, 'a');
  manifest.images.push_back({0, "node-0", "pod-0.h5", 1 << 20, 4096, digest, "n0", 2, {1, 2}});
  manifest.pod_of_rank = {0, 0, 0, 0};
  manifest.external_tcp = "reset";
  manifest.phases_ms = {{"freeze", 1.25}, {"capture", 30}};
  manifest.request_ms = 4.5;
  manifest.stand_still_ms = 31.25;
  manifest.held_ms = 8.5;
  manifest.images[0].held_ms = 8.5;
  manifest.result = "resumed";
  return manifest;
}

std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

class ManifestTest : public ::testing::Test {
 protected:
  ManifestTest() : set_(*make_set_folder(folder_.path(), {1234, 0}, {9})) {}

  void put(const std::string& text) { std::ofstream(set_ / "set.json") << text; }

  ScratchFolder folder_;
  std::filesystem::path set_;
};

TEST_F(ManifestTest, IsReadAsItWasWritten) {
  const Manifest written = sample_manifest();
  const Status status = write_manifest(set_, written);
  ASSERT_TRUE(status) << status.message();
  const auto read = read_manifest(set_);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(manifest_json(*read), manifest_json(written));
  EXPECT_EQ(read->crid, written.crid);
  EXPECT_EQ(read->images[0].digest, written.images[0].digest);
  EXPECT_EQ(read->phases_ms, written.phases_ms);
  EXPECT_EQ(read->request_ms, 4.5);
  EXPECT_EQ(read->held_ms, 8.5);
  EXPECT_EQ(read->images[0].held_ms, 8.5);
  EXPECT_EQ(read->bytes(), 1U << 20);
  EXPECT_TRUE(read_manifest(set_ / ""));
}

TEST_F(ManifestTest, OfVersion10IsRead) {
  const std::string set =
      R"({"command":["lmp"],"crid":9,"images":[{"bytes":7,"digest":"00112233445566778899aabbccddeeff",)"
      R"("file":"pod-0.h5","host":"n0","memory_bytes":4096,"pod":0}],"job":1234,"parent":0,)"
      R"("phases":[{"ms":30.5,"name":"capture"}],"ranks":4,"result":"resumed",)"
      R"("stand_still_ms":31.25,"step":0,"time":"2026-11-20T21:00:00Z","tool_version":"0.1.0",)"
      R"("user":"alice"})";
  put(fmt::format(R"({{"checksum":"{:016x}","format":"1.0","kind":"fermata-set","set":{}}})",
                  checksum64(std::as_bytes(std::span(set))), set));
  const auto read = read_manifest(set_);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_TRUE(read->pod_of_rank.empty());
  EXPECT_TRUE(read->images[0].phases_ms.empty());
  EXPECT_TRUE(read->external_tcp.empty());
  EXPECT_EQ(read->request_ms, 0);
  EXPECT_EQ(read->held_ms, 0);
}

TEST_F(ManifestTest, IsRefused_WhenARankIsInNoPodOfIt) {
  Manifest manifest = sample_manifest();
  manifest.pod_of_rank[2] = 1;
  ASSERT_TRUE(write_manifest(set_, manifest));
  const auto read = read_manifest(set_);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message(), HasSubstr("pod_of_rank"));
}

TEST_F(ManifestTest, IsNotFound_WhenTheSetWasNotCommitted) {
  const auto read = read_manifest(set_);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kNotFound);
}

TEST_F(ManifestTest, IsRefused_WhenAnyBitIsFlippedOrTheEndIsMissing) {
  ASSERT_TRUE(write_manifest(set_, sample_manifest()));
  const std::string good = slurp(set_ / "set.json");
  const std::string meaning = manifest_json(*read_manifest(set_));
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string bad = good;
    if (i % 10 == 0) {
      bad.resize(random() % bad.size());
    } else {
      bad[random() % bad.size()] ^= static_cast<char>(1U << random() % 8);
    }
    put(bad);
    const auto read = read_manifest(set_);
    if (read) {
      EXPECT_EQ(manifest_json(*read), meaning);  // a blank became another, the end of the last line
    } else {
      EXPECT_TRUE(read.error().code() == Code::kDamaged ||
                  read.error().code() == Code::kUnsupported)
          << read.error().message();
      EXPECT_THAT(read.error().message(), HasSubstr("set.json"));
    }
  }
}

TEST_F(ManifestTest, IsRefused_WhenItLeadsOutOfItsFolder) {
  Manifest manifest = sample_manifest();
  manifest.images[0].file = "../../other/pod-0.h5";
  ASSERT_TRUE(write_manifest(set_, manifest));
  EXPECT_EQ(read_manifest(set_).error().code(), Code::kDamaged);
}

TEST_F(ManifestTest, IsRefused_WhenItIsOfAnotherSet) {
  ASSERT_TRUE(write_manifest(set_, sample_manifest(8)));
  const auto read = read_manifest(set_);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message(), HasSubstr("set 8"));
}

TEST_F(ManifestTest, NamesBothVersions_WhenItIsNewer) {
  std::string text = manifest_json(sample_manifest());
  text.replace(text.find("\"1.2\""), 5, "\"2.0\"");
  put(text);
  const auto read = read_manifest(set_);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), Code::kUnsupported);
  EXPECT_THAT(read.error().message(), HasSubstr("2.0"));
  EXPECT_THAT(read.error().message(), HasSubstr("1.x"));
}

TEST_F(ManifestTest, IsRefused_WhenItIsHostile) {
  for (const std::string& text :
       {std::string(1 << 20, '['), std::string("null"), std::string("[]"), std::string("{}"),
        R"({"kind":"fermata-set","format":"1.0","set":)" + std::string(500000, '[') +
            std::string(500000, ']') + R"(,"checksum":"0"})",
        std::string(R"({"kind":"fermata-set","format":"1.0","set":[],"checksum":1})")}) {
    put(text);
    const auto read = read_manifest(set_);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code(), Code::kDamaged);
  }
}

TEST_F(ManifestTest, SetFolderIsNeverMadeTwice) {
  const auto again = make_set_folder(folder_.path(), {1234, 0}, {9});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Code::kConflict);
}

TEST_F(ManifestTest, LeftoversGo_AndCommittedSetsStay) {
  std::ofstream(set_ / "pod-0.h5.part") << "x";
  std::ofstream(set_ / "pod-1.h5") << "x";
  ASSERT_TRUE(remove_part_files(set_));
  EXPECT_FALSE(std::filesystem::exists(set_));
  EXPECT_TRUE(remove_part_files(set_));  // again: nothing to do

  const auto other = *make_set_folder(folder_.path(), {1234, 0}, {10});
  std::ofstream(other / "pod-0.h5") << "x";
  ASSERT_TRUE(write_manifest(other, sample_manifest(10)));
  EXPECT_EQ(remove_part_files(other).code(), Code::kConflict);
  EXPECT_TRUE(std::filesystem::exists(other / "pod-0.h5"));

  const auto third = *make_set_folder(folder_.path(), {1234, 0}, {11});
  std::ofstream(third / "pod-0.h5.part") << "x";
  std::ofstream(third / "notes.txt") << "mine";
  ASSERT_TRUE(remove_part_files(third));
  EXPECT_FALSE(std::filesystem::exists(third / "pod-0.h5.part"));
  EXPECT_TRUE(std::filesystem::exists(third / "notes.txt"));
}

TEST(FreeRoom, NamesWhatIsNeededAndWhatIsThere) {
  const ScratchFolder folder;
  EXPECT_TRUE(check_free_room(folder.path(), 1));
  const Status status = check_free_room(folder.path(), 1ULL << 60);
  EXPECT_EQ(status.code(), Code::kStorage);
  EXPECT_THAT(status.message(), HasSubstr("1 EiB"));
  EXPECT_EQ(check_free_room("/nonexistent", 1).code(), Code::kStorage);
}

}  // namespace
}  // namespace fermata::storage
