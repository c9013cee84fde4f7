// Images with flipped bits, cut short, or made by somebody who knows the format and means harm:
// refused in a sentence or read back right, never a crash and never a hang. Every image is read in
// a child of its own.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>

#include "common/unique_fd.h"
#include "storage/describe.h"
#include "storage/format.h"
#include "storage/image_reader.h"
#include "tests/unit/storage/sample_image.h"

namespace fermata::storage {
namespace {

using test::difference;
using test::sample_image;
using ::testing::HasSubstr;

using Bytes = std::vector<std::byte>;

constexpr uint64_t kLargeRun = 3 << 19;

constexpr int kFine = 0;
constexpr int kRefused = 10;
constexpr int kWrongCode = 11;
constexpr int kNoName = 12;
constexpr int kOtherContent = 13;
constexpr int kVerifyMissedIt = 14;

Bytes slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  Bytes bytes(std::filesystem::file_size(path));
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

void spill(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
}

// Changes bytes of a file and puts the old ones back at the end.
class Patch {
 public:
  Patch(const std::filesystem::path& path, size_t at, Bytes bytes)
      : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)), at_(at), old_(bytes.size()) {
    EXPECT_TRUE(read_exactly(fd_.get(), at_, old_, path.native()));
    EXPECT_TRUE(write_exactly(fd_.get(), at_, bytes, path.native()));
  }
  Patch(const Patch&) = delete;
  Patch& operator=(const Patch&) = delete;
  ~Patch() { EXPECT_TRUE(write_exactly(fd_.get(), at_, old_, "")); }

 private:
  UniqueFd fd_;
  size_t at_;
  Bytes old_;
};

// Runs `body` in a child that has 20 s and 4 GiB; its exit status, or 128 + the signal that ended
// it.
int in_child(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::alarm(20);
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// A sentence that names the image, with a code a caller can act on.
int judge(const Status& status, const std::filesystem::path& path) {
  if (status.code() != Code::kDamaged && status.code() != Code::kUnsupported) return kWrongCode;
  return status.message().find(path.native()) == std::string::npos ? kNoName : kRefused;
}

int read_back(const std::filesystem::path& path, const PodImage& original) {
  const auto image = read_image(path);
  if (!image) return judge(image.error(), path);
  for (const MemoryRegion& region : image->memory) {
    for (const Extent& extent : region.extents) {
      if (extent.where != Where::kHere) continue;
      Bytes bytes(extent.length);
      if (Status status = region.source->read(extent.address, bytes); !status) {
        return judge(status, path);
      }
    }
  }
  return difference(original, *image).empty() ? kFine : kOtherContent;
}

int verify(const std::filesystem::path& path) {
  const auto verified = verify_image(path);
  return verified ? kVerifyMissedIt : judge(verified.error(), path);
}

// An image, and its bytes to be spoiled.
class DamagedImage : public ::testing::Test {
 protected:
  explicit DamagedImage(Compression compression = Compression::kNone)
      : original_(sample_image(kLargeRun)), path_(folder_ / "pod-0.h5") {
    if (compression != Compression::kNone) {
      original_.memory[1].source = std::make_shared<test::HalfZeroSource>();
    }
    EXPECT_TRUE(test::write_image(path_, original_, 2, compression));
    good_ = slurp(path_);
    const UniqueFd fd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    index_ = *read_index(fd.get(), path_.native(), nullptr);
  }

  // A place in the head of the index, in HDF5's part and the records, or anywhere.
  size_t place(int kind) {
    if (kind == 0) return random_() % 8192;
    if (kind == 1) {
      for (;;) {
        const size_t at = index_.index_size + random_() % (good_.size() - index_.index_size);
        bool in_pages = false;
        for (const auto& [name, entry] : index_.entries) {
          in_pages |= entry.guard != Guard::kWhole && at >= entry.offset &&
                      at - entry.offset < entry.length;
        }
        if (!in_pages) return at;
      }
    }
    return random_() % good_.size();
  }

  void flip_bits(int rounds);
  void cut_short();
  void forge(int rounds);

  // Puts an index that matches its checksum in front of `bytes`, as a forger would.
  static void seal(Bytes& bytes, const Index& index) {
    const Bytes head = encode_index(index);
    std::copy(head.begin(), head.end(), bytes.begin());
  }

  Status refusal(const Bytes& bytes) {
    spill(path_, bytes);
    const auto image = read_image(path_);
    return image ? Status::ok() : image.error();
  }

  const ScratchFolder folder_;
  PodImage original_;
  const std::filesystem::path path_;
  Bytes good_;
  Index index_;
  std::mt19937_64 random_{20261120};
};

void DamagedImage::flip_bits(int rounds) {
  int refused = 0;
  for (int i = 0; i < rounds; ++i) {
    const size_t at = place(i % 3);
    const Patch patch(path_, at, {good_[at] ^ static_cast<std::byte>(1U << random_() % 8)});
    const int read = in_child([&] { return read_back(path_, original_); });
    EXPECT_TRUE(read == kFine || read == kRefused) << read << ", bit flipped in byte " << at;
    EXPECT_EQ(in_child([&] { return verify(path_); }), kRefused) << "bit flipped in byte " << at;
    refused += read == kRefused ? 1 : 0;
  }
  EXPECT_GT(refused, rounds / 3);
}

void DamagedImage::cut_short() {
  std::vector<size_t> lengths{0, 1, 8, 63, 64, 4096};
  for (int i = 0; i < 60; ++i) lengths.push_back(random_() % good_.size());
  std::sort(lengths.rbegin(), lengths.rend());
  for (const size_t length : lengths) {
    std::filesystem::resize_file(path_, length);
    EXPECT_EQ(in_child([&] { return read_back(path_, original_); }), kRefused) << length;
    EXPECT_EQ(in_child([&] { return verify(path_); }), kRefused) << length;
  }
}

TEST_F(DamagedImage, IsRefused_WhenSomethingWasAppended) {
  Bytes bytes = good_;
  bytes.push_back(std::byte{0});
  EXPECT_EQ(refusal(bytes).code(), Code::kDamaged);
}

TEST_F(DamagedImage, IsRefused_WhenABlockOfPagesIsLost) {
  const IndexEntry& pages = index_.entries.at("/memory/7/pages");
  Bytes bytes = good_;
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(pages.offset + kBlockSize), 4096,
              std::byte{0});
  spill(path_, bytes);
  const auto image = read_image(path_);
  ASSERT_TRUE(image);
  Bytes out(kLargeRun);
  const Status status = image->memory[1].source->read(0x7f0000000000, out);
  EXPECT_EQ(status.code(), Code::kDamaged);
  EXPECT_THAT(status.message(), HasSubstr("block 1 of /memory/7/pages"));
}

// Checksums are no secret: a forged image matches all of them.
void DamagedImage::forge(int rounds) {
  std::vector<std::string> names;
  for (const auto& [name, entry] : index_.entries) {
    if (entry.guard == Guard::kWhole && entry.length > 0) names.push_back(name);
  }
  for (int i = 0; i < rounds; ++i) {
    Index forged = index_;
    IndexEntry& entry = forged.entries.at(names[random_() % names.size()]);
    const auto whole = std::span(good_).subspan(entry.offset, entry.length);
    Bytes content(whole.begin(), whole.end());
    for (uint64_t flips = 1 + random_() % 4; flips > 0; --flips) {
      content[random_() % content.size()] ^= static_cast<std::byte>(random_());
    }
    entry.checksum = checksum64(content);
    const Patch index(path_, 0, encode_index(forged));
    const Patch records(path_, entry.offset, content);
    const int result = in_child([&] {
      const auto image = read_image(path_);
      if (!image) return judge(image.error(), path_);
      [[maybe_unused]] const std::string json = describe_json(*image);
      [[maybe_unused]] const std::string text = describe_text(*image);
      const int read = read_back(path_, original_);
      return read == kOtherContent ? kFine : read;
    });
    EXPECT_TRUE(result == kFine || result == kRefused) << result << ", " << entry.name;
  }
}

TEST_F(DamagedImage, IsRefusedOrReadRight_WhenABitIsFlipped) { flip_bits(300); }
TEST_F(DamagedImage, IsRefused_WhenCutShort) { cut_short(); }
TEST_F(DamagedImage, NeverCrashes_WhenForged) { forge(400); }

class DamagedCompressedImage : public DamagedImage,
                               public ::testing::WithParamInterface<Compression> {
 protected:
  DamagedCompressedImage() : DamagedImage(GetParam()) {}
};

TEST_P(DamagedCompressedImage, IsRefusedOrReadRight_WhenABitIsFlipped) { flip_bits(120); }
TEST_P(DamagedCompressedImage, IsRefused_WhenCutShort) { cut_short(); }
TEST_P(DamagedCompressedImage, NeverCrashes_WhenForged) { forge(120); }

// Compressed bytes that were never compressed, with checksums that match.
TEST_P(DamagedCompressedImage, NeverCrashes_WhenItsBlocksAreForged) {
  const IndexEntry table = index_.entries.at("/memory/7/stored");
  const IndexEntry area = index_.entries.at(kStoredArea);
  const auto blocks =
      decode_stored(std::span(good_).subspan(table.offset, table.length), area, "stored");
  ASSERT_TRUE(blocks);
  for (int i = 0; i < 120; ++i) {
    const size_t number = random_() % blocks->size();
    const StoredBlock& block = (*blocks)[number];
    const uint64_t room = (block.length + kPageSize - 1) / kPageSize * kPageSize;
    const auto old = std::span(good_).subspan(block.offset, room);
    Bytes content(old.begin(), old.end());
    for (uint64_t flips = 1 + random_() % 4; flips > 0; --flips) {
      const size_t at = random_() % 2 == 0 ? random_() % 24 : random_() % block.length;
      content[at] ^= static_cast<std::byte>(1U << random_() % 8);
    }
    Index forged = index_;
    IndexEntry& sums = forged.entries.at("/memory/7/checksums");
    const auto whole = std::span(good_).subspan(sums.offset, sums.length);
    Bytes checksums(whole.begin(), whole.end());
    const uint64_t sum = checksum64(content);
    std::memcpy(checksums.data() + number * sizeof sum, &sum, sizeof sum);
    sums.checksum = checksum64(checksums);
    const Patch index(path_, 0, encode_index(forged));
    const Patch table_of_sums(path_, sums.offset, checksums);
    const Patch bytes(path_, block.offset, content);
    const int result = in_child([&] {
      const int read = read_back(path_, original_);
      return read == kOtherContent ? kFine : read;
    });
    EXPECT_TRUE(result == kFine || result == kRefused) << result << ", block " << number;
  }
}

INSTANTIATE_TEST_SUITE_P(Each, DamagedCompressedImage,
                         ::testing::Values(Compression::kLz4, Compression::kZstd),
                         [](const auto& one) {
                           return one.param == Compression::kLz4 ? "Lz4" : "Zstd";
                         });

TEST_F(DamagedImage, IsRefused_WhenItsIndexIsForged) {
  const auto code_of = [&](const std::function<void(Index&)>& spoil) {
    Bytes bytes = good_;
    Index forged = index_;
    spoil(forged);
    seal(bytes, forged);
    const Status status = refusal(bytes);
    EXPECT_TRUE(status || status.message().find(path_.native()) != std::string::npos);
    return status.code();
  };
  const auto entry = [](Index& index, const char* name) -> IndexEntry& {
    return index.entries.at(name);
  };
  EXPECT_EQ(code_of([](Index&) {}), Code::kOk);
  EXPECT_EQ(code_of([](Index& index) { index.file_size += 1; }), Code::kDamaged);
  EXPECT_EQ(code_of([](Index& index) { index.major = 0; }), Code::kDamaged);
  // Out of the file, into the index, past 2^64, upon another, not there.
  for (const uint64_t offset : {uint64_t{1} << 40, uint64_t{0}, UINT64_MAX - 4095}) {
    EXPECT_EQ(code_of([&](Index& index) { entry(index, "/memory/7/pages").offset = offset; }),
              Code::kDamaged);
    EXPECT_EQ(code_of([&](Index& index) { entry(index, "/objects/files").offset = offset; }),
              Code::kDamaged);
  }
  EXPECT_EQ(code_of([&](Index& index) {
              entry(index, "/memory/7/pages").offset = entry(index, "/memory/1/pages").offset;
            }),
            Code::kDamaged);
  EXPECT_EQ(code_of([](Index& index) { index.entries.erase("/objects/processes"); }),
            Code::kDamaged);
  EXPECT_EQ(code_of([](Index& index) { index.entries.erase("/memory/7/pages"); }), Code::kDamaged);
  EXPECT_EQ(code_of([](Index& index) { index.entries.erase("/memory/7/checksums"); }),
            Code::kDamaged);
  // Lengths that would be allocated before anything is read.
  for (const uint64_t length : {uint64_t{1} << 30, uint64_t{1} << 62, UINT64_MAX}) {
    for (const char* name : {"/objects/processes", "/topology", "/memory/7/extents",
                             "/memory/7/checksums", "/memory/7/pages"}) {
      EXPECT_EQ(code_of([&](Index& index) { entry(index, name).length = length; }), Code::kDamaged)
          << name << " " << length;
    }
  }
  // What is guarded block by block is no record, and the other way round.
  EXPECT_EQ(code_of([&](Index& index) { entry(index, "/memory/7/pages").guard = Guard::kWhole; }),
            Code::kDamaged);
}

TEST_F(DamagedImage, NamesBothVersions_WhenTheFormatIsNewer) {
  Index newer = index_;
  newer.major = kFormatMajor + 1;
  newer.minor = 4;
  Bytes bytes = good_;
  seal(bytes, newer);
  const Status status = refusal(bytes);
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_THAT(status.message(), HasSubstr(std::to_string(kFormatMajor + 1) + ".4"));
  EXPECT_THAT(status.message(), HasSubstr(std::to_string(kFormatMajor) + ".x"));
}

TEST_F(DamagedImage, IsRead_WhenOnlyTheMinorIsNewer) {
  Index newer = index_;
  newer.minor = kFormatMinor + 7;
  newer.entries.emplace("/objects/of_the_future",
                        IndexEntry{"/objects/of_the_future", 0, 0, checksum64({}), Guard::kWhole});
  Bytes bytes = good_;
  seal(bytes, newer);
  spill(path_, bytes);
  EXPECT_EQ(read_back(path_, original_), kFine);
  EXPECT_TRUE(verify_image(path_));
}

TEST_F(DamagedImage, IsRefused_WhenItIsASparseGiant) {
  // A file of 4 TiB that occupies nothing, and an index that calls all of it pages.
  Index forged = index_;
  forged.file_size = uint64_t{1} << 42;
  forged.entries.at("/memory/7/pages").length = (uint64_t{1} << 42) - (64 << 20);
  Bytes bytes = good_;
  seal(bytes, forged);
  spill(path_, bytes);
  std::error_code error;
  std::filesystem::resize_file(path_, forged.file_size, error);
  if (error)
    std::filesystem::resize_file(path_, good_.size());  // the file system has no such files
  EXPECT_EQ(in_child([&] { return read_back(path_, original_); }), kRefused);
}

}  // namespace
}  // namespace fermata::storage
