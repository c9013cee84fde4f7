#include "common/file_util.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/unique_fd.h"
#include "tests/support/scratch_folder.h"

namespace fermata {
namespace {

size_t entries(const std::filesystem::path& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder),
                                           std::filesystem::directory_iterator()));
}

TEST(FileUtil, ReadFile_ReadsFilesThatTellNoSize) {
  const auto status = read_file("/proc/self/status");
  ASSERT_TRUE(status) << status.error().message();
  EXPECT_NE(status->find("Pid:\t" + std::to_string(getpid())), std::string::npos);
}

TEST(FileUtil, ReadFile_NamesTheFile_WhenThereIsNone) {
  const auto contents = read_file("/no/such/file");
  ASSERT_FALSE(contents);
  EXPECT_EQ(contents.error().code(), Code::kNotFound);
  EXPECT_EQ(contents.error().message(), "cannot open /no/such/file: No such file or directory");
}

TEST(FileUtil, WriteFile_ReplacesTheOldOne_AndLeavesNothingBeside) {
  const ScratchFolder folder;
  const auto file = folder / "set.json";
  const std::string large(100'000, 'x');
  ASSERT_TRUE(write_file_durable(file, "old", 0600).is_ok());
  ASSERT_TRUE(write_file_durable(file, large, 0640).is_ok());
  EXPECT_EQ(read_file(file).value(), large);
  struct stat status {};
  ASSERT_EQ(stat(file.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640U);
  EXPECT_EQ(entries(folder.path()), 1U);
}

TEST(FileUtil, WriteFile_LeavesNothing_WhenItCannotBePutInPlace) {
  const ScratchFolder folder;
  ASSERT_TRUE(make_directories(folder / "taken").is_ok());
  const Status status = write_file_durable(folder / "taken", "x");
  ASSERT_FALSE(status.is_ok());
  EXPECT_EQ(status.error_number(), EISDIR);
  EXPECT_EQ(entries(folder.path()), 1U);
  EXPECT_EQ(write_file_durable("/no/such/folder/x", "x").code(), Code::kNotFound);
}

TEST(FileUtil, WriteAll_SaysThatTheDiskIsFull) {
  const UniqueFd full(open("/dev/full", O_WRONLY));
  const Status status = write_all(full.get(), "x", "the image");
  EXPECT_EQ(status.code(), Code::kStorage);
  EXPECT_EQ(status.message(), "cannot write the image: No space left on device");
}

TEST(FileUtil, LockWithin_IsBusyWhileAnotherHasIt) {
  const ScratchFolder folder;
  ASSERT_TRUE(write_file_durable(folder / "file", "").is_ok());
  const auto again = [&] { return UniqueFd(open((folder / "file").c_str(), O_RDONLY)); };
  UniqueFd first = again();
  const UniqueFd second = again();
  EXPECT_TRUE(lock_within(first.get(), std::chrono::milliseconds(0), "the file"));
  const Status busy = lock_within(second.get(), std::chrono::milliseconds(50), "the file");
  EXPECT_EQ(busy.code(), Code::kBusy);
  EXPECT_NE(busy.message().find("the file"), std::string::npos);
  first.reset();
  EXPECT_TRUE(lock_within(second.get(), std::chrono::milliseconds(0), "the file"));
}

TEST(FileUtil, MakeDirectories_MakesWhatIsMissing_Twice) {
  const ScratchFolder folder;
  for (int round = 0; round < 2; ++round) {
    const Status status = make_directories(folder / "a/b/c/");
    EXPECT_TRUE(status.is_ok()) << status.message();
    EXPECT_TRUE(std::filesystem::is_directory(folder / "a/b/c"));
  }
}

TEST(FileUtil, MakeDirectories_SaysWhatIsInTheWay) {
  const ScratchFolder folder;
  ASSERT_TRUE(write_file_durable(folder / "file", "").is_ok());
  const Status direct = make_directories(folder / "file");
  EXPECT_EQ(direct.code(), Code::kStorage);
  EXPECT_NE(direct.message().find("not a folder"), std::string::npos);
  EXPECT_FALSE(make_directories(folder / "file/below").is_ok());
}

}  // namespace
}  // namespace fermata
