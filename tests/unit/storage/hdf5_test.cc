// An image as HDF5 and its tools see it, and as a full disk sees it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "common/unique_fd.h"
#include "storage/codec.h"
#include "storage/format.h"
#include "storage/image_reader.h"
#include "tests/unit/storage/sample_image.h"

namespace fermata::storage {
namespace {

using test::sample_image;

using test::write_image;
using ::testing::HasSubstr;

std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return text;
  std::array<char, 4096> buffer{};
  for (size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    text.append(buffer.data(), n);
  }
  EXPECT_EQ(::pclose(pipe), 0) << command;
  return text;
}

/// The filter as HDF5 would load it, from our own code.
template <Codec codec>
size_t unpack(unsigned flags, size_t, const unsigned*, size_t length, size_t* size, void** buffer) {
  if ((flags & H5Z_FLAG_REVERSE) == 0) return 0;
  void* out = H5allocate_memory(kBlockSize, false);
  const std::span in(static_cast<const std::byte*>(*buffer), length);
  if (!decompress(codec, in, std::span(static_cast<std::byte*>(out), kBlockSize))) {
    H5free_memory(out);
    return 0;
  }
  H5free_memory(*buffer);
  *buffer = out;
  *size = kBlockSize;
  return kBlockSize;
}

template <Codec codec>
void register_filter() {
  H5Z_class2_t filter{};
  filter.version = H5Z_CLASS_T_VERS;
  filter.id = static_cast<H5Z_filter_t>(codec);
  filter.decoder_present = 1;
  filter.name = "test";
  filter.filter = unpack<codec>;
  ASSERT_GE(H5Zregister(&filter), 0);
}

TEST(Hdf5, ReadsCompressedPages_ByItsRegisteredFilters) {
  for (const auto compression : {Compression::kLz4, Compression::kZstd, Compression::kAuto}) {
    const ScratchFolder folder;
    const auto path = folder / "pod-0.h5";
    PodImage image = sample_image(5 << 20);
    image.memory[1].source = std::make_shared<test::HalfZeroSource>();
    ASSERT_TRUE(write_image(path, image, 2, compression));
    // Not before: to write, an encoder has to be there, too.
    register_filter<Codec::kLz4>();
    register_filter<Codec::kZstd>();
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    const hid_t dataset = H5Dopen2(file, "/memory/7/pages", H5P_DEFAULT);
    ASSERT_GE(dataset, 0);
    std::vector<std::byte> read(image.memory[1].bytes_here());
    ASSERT_GE(H5Dread(dataset, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, read.data()), 0);
    EXPECT_LT(H5Dget_storage_size(dataset), read.size() / 4 * 3);
    H5Dclose(dataset);
    H5Fclose(file);

    std::vector<std::byte> expected;
    for (const Extent& extent : image.memory[1].extents) {
      if (extent.where != Where::kHere) continue;
      std::vector<std::byte> bytes(extent.length);
      ASSERT_TRUE(image.memory[1].source->read(extent.address, bytes));
      expected.insert(expected.end(), bytes.begin(), bytes.end());
    }
    EXPECT_TRUE(read == expected);
  }
}

TEST(Hdf5, ToolsReadCompressedPages_ByTheirPlugin) {
  const ScratchFolder folder;
  const auto path = folder / "pod-0.h5";
  PodImage image = sample_image(3 << 20);
  image.memory[1].source = std::make_shared<test::HalfZeroSource>();
  ASSERT_TRUE(write_image(path, image, 2, Compression::kLz4));
  const auto dump = folder / "pages";
  output_of("h5dump -d /memory/7/pages -b LE -o " + dump.string() + " " + path.string());
  std::ifstream in(dump, std::ios::binary);
  const std::string read((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::string expected;
  for (const Extent& extent : image.memory[1].extents) {
    if (extent.where != Where::kHere) continue;
    std::string bytes(extent.length, '\0');
    ASSERT_TRUE(
        image.memory[1].source->read(extent.address, std::as_writable_bytes(std::span(bytes))));
    expected += bytes;
  }
  EXPECT_TRUE(read == expected) << read.size() << " bytes, not " << expected.size();
}

TEST(Hdf5, FindsEachDataset_WhereTheIndexSaysItIs) {
  const ScratchFolder folder;
  const auto path = folder / "pod-0.h5";
  ASSERT_TRUE(write_image(path, sample_image()));
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto index = read_index(fd.get(), path.native(), nullptr);
  ASSERT_TRUE(index) << index.error().message();
  EXPECT_EQ(index->entries.size(), 9U + 3 * 4);

  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  for (const auto& [name, entry] : index->entries) {
    const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
    ASSERT_GE(dataset, 0) << name;
    EXPECT_EQ(H5Dget_storage_size(dataset), entry.length) << name;
    if (entry.length > 0) {
      EXPECT_EQ(H5Dget_offset(dataset), entry.offset) << name;
    }
    if (entry.guard == Guard::kBlocks && entry.length >= 1 << 20) {
      EXPECT_EQ(entry.offset % (1 << 20), 0U) << name;
    }
    H5Dclose(dataset);
  }
  // The last byte of the last run, through the library.
  const IndexEntry& pages = index->entries.at("/memory/7/pages");
  std::vector<std::byte> bytes(pages.length);
  const hid_t dataset = H5Dopen2(file, "/memory/7/pages", H5P_DEFAULT);
  ASSERT_GE(H5Dread(dataset, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), 0);
  EXPECT_EQ(bytes.back(), test::byte_at(7, 0x7f0000000000 + (3 << 20) - 1));
  EXPECT_EQ(bytes.front(), test::byte_at(7, 0x403000));
  H5Dclose(dataset);
  H5Fclose(file);
}

TEST(Hdf5, ToolsShowAnImage) {
  const ScratchFolder folder;
  const std::string path = (folder / "pod-0.h5").native();
  ASSERT_TRUE(write_image(path, sample_image()));
  const std::string list = output_of("h5ls -r " + path);
  EXPECT_THAT(list, HasSubstr("/objects/processes"));
  EXPECT_THAT(list, HasSubstr("/memory/object-5/pages"));
  EXPECT_THAT(output_of("h5dump -a /crid " + path), HasSubstr("(0): 42"));
  EXPECT_THAT(output_of("h5dump -a /format " + path), HasSubstr("\"1.0\""));
  EXPECT_THAT(output_of("h5dump -d /topology " + path), HasSubstr("<topology/>"));
  const std::string extents = output_of("h5dump -d /memory/object-6/extents " + path);
  EXPECT_THAT(extents, HasSubstr("8192,"));
  EXPECT_THAT(extents, HasSubstr("zero"));
}

bool put(const char* path, const std::string& text) {
  const UniqueFd fd(::open(path, O_WRONLY | O_CLOEXEC));
  return ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// In a child with a tmpfs of its own, made in a user namespace so that it needs no root: 0 when the
// image was refused for want of room and nothing was left; HDF5's own exit handlers run as well.
int write_on_small_disk(const std::filesystem::path& folder, size_t bytes) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const std::string uid = "0 " + std::to_string(::getuid()) + " 1";
    const std::string gid = "0 " + std::to_string(::getgid()) + " 1";
    const std::string options = "size=" + std::to_string(bytes);
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 || !put("/proc/self/setgroups", "deny") ||
        !put("/proc/self/uid_map", uid) || !put("/proc/self/gid_map", gid) ||
        ::mount("none", folder.c_str(), "tmpfs", 0, options.c_str()) != 0) {
      ::_exit(100);
    }
    const auto written = write_image(folder / "pod-0.h5", sample_image());
    if (written) ::_exit(101);
    if (written.error().code() != Code::kStorage) ::_exit(102);
    if (written.error().message().find("No space left on device") == std::string::npos)
      ::_exit(103);
    if (written.error().message().find("pod-0.h5") == std::string::npos) ::_exit(104);
    if (std::filesystem::exists(folder / "pod-0.h5")) ::_exit(105);
    std::exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

TEST(Image, SaysThatTheDiskIsFull_WhereverItBecomesSo) {
  const ScratchFolder folder;
  for (const size_t kib :
       {4U, 8U, 12U, 16U, 24U, 32U, 64U, 256U, 1024U, 2048U, 3072U, 4096U, 4400U}) {
    EXPECT_EQ(write_on_small_disk(folder.path(), kib << 10), 0) << kib << " KiB";
  }
  EXPECT_EQ(write_on_small_disk(folder.path(), 64 << 20), 101);  // there it fits
}

}  // namespace
}  // namespace fermata::storage
