#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <thread>

#include "storage/format.h"
#include "storage/image_reader.h"
#include "storage/image_writer.h"
#include "tests/unit/storage/sample_image.h"

namespace fermata::storage {
namespace {

using test::difference;
using test::sample_image;

using test::write_image;
using ::testing::HasSubstr;

TEST(Image, GivesBackEverything_AfterARoundTrip) {
  const ScratchFolder folder;
  const PodImage image = sample_image(21 << 20);
  for (const unsigned threads : {1U, 2U, 5U}) {
    const auto path = folder / ("pod-" + std::to_string(threads));
    const auto written = write_image(path, image, threads);
    ASSERT_TRUE(written) << written.error().message();
    EXPECT_EQ(written->bytes, std::filesystem::file_size(path));
    EXPECT_EQ(written->memory_bytes, (21U << 20) + 0x2000 + 0x1000 + 100 * 0x1000 + 0x2000);
    const auto read = read_image(path, written->digest);
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_EQ(difference(image, *read), "");
    EXPECT_EQ(read->header.format_major, kFormatMajor);
    const auto verified = verify_image(path, written->digest);
    ASSERT_TRUE(verified) << verified.error().message();
    EXPECT_EQ(verified->bytes, written->bytes);
    EXPECT_EQ(verified->memory_bytes, written->memory_bytes);
  }
}

TEST(Image, GivesBackAnyPartOfARun_WhenReadByMany) {
  const ScratchFolder folder;
  const PodImage image = sample_image(5 << 20);
  ASSERT_TRUE(write_image(folder / "pod", image));
  const auto read = read_image(folder / "pod");
  ASSERT_TRUE(read) << read.error().message();
  const MemoryRegion& region = read->memory[1];
  std::vector<std::thread> readers;
  std::atomic<int> wrong{0};
  for (unsigned t = 0; t < 4; ++t) {
    readers.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 200; ++i) {
        const uint64_t at = random() % (5 << 20);
        const uint64_t length = 1 + random() % std::min<uint64_t>(70000, (5 << 20) - at);
        std::vector<std::byte> bytes(length);
        if (!region.source->read(0x7f0000000000 + at, bytes)) ++wrong;
        for (size_t b = 0; b < length; b += 97) {
          if (bytes[b] != test::byte_at(7, 0x7f0000000000 + at + b)) ++wrong;
        }
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Image, HoldsManyRegions) {
  const ScratchFolder folder;
  PodImage image = sample_image();
  image.memory.clear();
  for (uint64_t id = 1; id <= 4000; ++id) {  // more entries than the smallest index has room for
    image.memory.push_back(
        test::region(MemoryId::Kind::kProcess, id, {{0x1000, 0x1000, Where::kHere}}));
  }
  const auto written = write_image(folder / "pod", image);
  ASSERT_TRUE(written) << written.error().message();
  const auto read = read_image(folder / "pod");
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(difference(image, *read), "");
}

TEST(Image, HoldsAPodWithoutMemory) {
  const ScratchFolder folder;
  PodImage image = sample_image();
  image.memory.clear();
  image.topology_xml.clear();
  image.objects.clear_files();
  ASSERT_TRUE(write_image(folder / "pod", image));
  const auto read = read_image(folder / "pod");
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(difference(image, *read), "");
}

TEST(Image, GivesBackEverything_Compressed) {
  const ScratchFolder folder;
  PodImage image = sample_image(21 << 20);
  // One process compresses, the others do not.
  image.memory[1].source = std::make_shared<test::HalfZeroSource>();
  ASSERT_TRUE(write_image(folder / "plain", image));
  const auto plain = std::filesystem::file_size(folder / "plain");
  int number = 0;
  for (const auto compression : {Compression::kLz4, Compression::kZstd, Compression::kAuto}) {
    const auto path = folder / ("pod-" + std::to_string(number++));
    const auto written = write_image(path, image, 3, compression);
    ASSERT_TRUE(written) << written.error().message();
    EXPECT_EQ(written->bytes, std::filesystem::file_size(path));
    EXPECT_LT(written->bytes, plain / 4 * 3);
    const auto read = read_image(path, written->digest);
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_EQ(difference(image, *read), "");
    const auto verified = verify_image(path, written->digest);
    EXPECT_TRUE(verified) << verified.error().message();
  }
}

TEST(Image, GrowsByLittle_WhenNothingCompresses) {
  const ScratchFolder folder;
  const PodImage image = sample_image(9 << 20);
  const auto plain = write_image(folder / "plain", image);
  const auto written = write_image(folder / "auto", image, 2, Compression::kAuto);
  ASSERT_TRUE(plain);
  ASSERT_TRUE(written);
  EXPECT_LT(written->bytes, plain->bytes + 4 * kBlockSize);
  const auto read = read_image(folder / "auto", written->digest);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(difference(image, *read), "");
}

TEST(Image, ReportsProgress_ToTheLastByte) {
  const ScratchFolder folder;
  auto writer = ImageWriter::create(folder / "pod", sample_image(9 << 20));
  ASSERT_TRUE(writer);
  uint64_t last = 0;
  uint64_t all = 0;
  ASSERT_TRUE(writer->write_pages({.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GT(done, last);
    last = done;
    all = total;
  }}));
  EXPECT_GT(all, 9U << 20);
  EXPECT_EQ(last, all);
}

TEST(Image, IsWrittenNoFaster_ThanItMayBe) {
  const ScratchFolder folder;
  auto writer = ImageWriter::create(folder / "pod", sample_image(16 << 20));
  ASSERT_TRUE(writer);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(writer->write_pages({.background = true, .bytes_per_second = 64 << 20}));
  // All but the last 2 MiB have to wait for their turn.
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(200));
  EXPECT_TRUE(writer->finish());
}

TEST(Image, RemovesItsFile_WhenNotFinished) {
  const ScratchFolder folder;
  {
    auto writer = ImageWriter::create(folder / "pod", sample_image());
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->write_pages());
    EXPECT_TRUE(std::filesystem::exists(folder / "pod"));
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "pod"));
}

class FailingSource : public MemorySource {
 public:
  Status read(uint64_t address, std::span<std::byte>) const override {
    if (address < 0x800000) return Status::ok();
    return {Code::kGone, "process 7 has ended"};
  }
};

TEST(Image, FailsWithTheSourcesSentence_WhenPagesCannotBeRead) {
  const ScratchFolder folder;
  PodImage image = sample_image();
  image.memory[1].source = std::make_shared<FailingSource>();
  auto writer = ImageWriter::create(folder / "pod", image);
  ASSERT_TRUE(writer);
  const Status status = writer->write_pages({.threads = 3});
  EXPECT_EQ(status.code(), Code::kGone);
  EXPECT_THAT(status.message(), HasSubstr("/memory/7: process 7 has ended"));
  EXPECT_FALSE(writer->finish());
}

TEST(Image, IsRefused_WhenExtentsOverlap) {
  const ScratchFolder folder;
  PodImage image = sample_image();
  image.memory[0].extents = {{0x1000, 0x2000, Where::kHere}, {0x2000, 0x1000, Where::kHere}};
  const auto writer = ImageWriter::create(folder / "pod", image);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code(), Code::kInternal);
  EXPECT_FALSE(std::filesystem::exists(folder / "pod"));
}

TEST(Image, NeverOverwritesAFile) {
  const ScratchFolder folder;
  std::ofstream(folder / "pod") << "precious";
  EXPECT_FALSE(ImageWriter::create(folder / "pod", sample_image()));
  EXPECT_EQ(std::filesystem::file_size(folder / "pod"), 8U);
}

TEST(Image, NamesTheFolder_WhenItIsMissing) {
  const auto writer = ImageWriter::create("/nonexistent/folder/pod", sample_image());
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code(), Code::kStorage);
  EXPECT_THAT(writer.error().message(), HasSubstr("/nonexistent/folder/pod"));
  const auto image = read_image("/nonexistent/folder/pod");
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), Code::kNotFound);
}

TEST(Image, IsNotFoundInOtherFiles) {
  const ScratchFolder folder;
  std::ofstream(folder / "small") << "hello";
  std::ofstream(folder / "large") << std::string(2 << 20, 'x');
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  for (const char* name : {"small", "large", "fifo", ""}) {
    const auto image = read_image(folder / name);
    ASSERT_FALSE(image);
    EXPECT_EQ(image.error().code(), Code::kDamaged) << image.error().message();
    EXPECT_THAT(image.error().message(), HasSubstr(folder.path().native()));
  }
}

TEST(Image, SaysSo_WhenItIsNotTheCommittedFile) {
  const ScratchFolder folder;
  ASSERT_TRUE(write_image(folder / "pod", sample_image()));
  const auto image = read_image(folder / "pod", std::string(32, '0'));
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), Code::kDamaged);
  EXPECT_THAT(image.error().message(), HasSubstr("digest"));
}

TEST(Image, ExpectedSizeIsNearTheRealOne) {
  const ScratchFolder folder;
  const PodImage image = sample_image(40 << 20);
  const auto written = write_image(folder / "pod", image);
  ASSERT_TRUE(written);
  const auto expected = static_cast<double>(expected_image_bytes(image.objects, image.memory));
  EXPECT_NEAR(expected / static_cast<double>(written->bytes), 1, 0.1);
}

TEST(Publish, RenamesAndFails_InClearWords) {
  const ScratchFolder folder;
  std::ofstream(folder / "pod-0.h5.part") << "x";
  ASSERT_TRUE(publish(folder / "pod-0.h5.part", folder / "pod-0.h5"));
  EXPECT_TRUE(std::filesystem::exists(folder / "pod-0.h5"));
  const Status again = publish(folder / "pod-0.h5.part", folder / "pod-0.h5");
  EXPECT_EQ(again.code(), Code::kStorage);
  EXPECT_THAT(again.message(), HasSubstr("pod-0.h5.part"));
}

}  // namespace
}  // namespace fermata::storage
