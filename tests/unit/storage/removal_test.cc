#include "storage/removal.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/scratch_folder.h"

namespace fermata::storage {
namespace {

namespace fs = std::filesystem;

TEST(Removal, TakesAllThatIsInTheFolderAndNothingElse) {
  const ScratchFolder scratch;
  const fs::path folder = scratch.path() / "set";
  const fs::path other = scratch.path() / "other";
  fs::create_directories(folder / "inner");
  std::ofstream(other) << "stays";
  std::ofstream(folder / "inner" / "file") << "goes";
  for (int i = 0; i < 100; ++i) std::ofstream(folder / std::to_string(i)) << "goes";
  fs::create_symlink(other, folder / "link");
  std::error_code error;
  remove_tree(folder, error);
  EXPECT_FALSE(error) << error.message();
  EXPECT_FALSE(fs::exists(folder));
  wait_for_freed_room();
  EXPECT_TRUE(fs::exists(other));
}

size_t open_descriptors() {
  const fs::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

TEST(Removal, OfManySets_TakesFewDescriptors) {
  const ScratchFolder scratch;
  for (int set = 0; set < 20; ++set) {
    fs::create_directories(scratch.path() / std::to_string(set));
    for (int i = 0; i < 40; ++i) {
      std::ofstream(scratch.path() / std::to_string(set) / std::to_string(i)) << "goes";
    }
  }
  const size_t before = open_descriptors();
  for (int set = 0; set < 20; ++set) {
    std::error_code error;
    remove_tree(scratch.path() / std::to_string(set), error);
    EXPECT_FALSE(error) << error.message();
    EXPECT_LE(open_descriptors(), before + 64);
  }
  EXPECT_TRUE(fs::is_empty(scratch.path()));
  for (int i = 0; i < 30 && open_descriptors() > before; ++i) wait_for_freed_room();
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Removal, OfWhatIsNotThereIsNoError) {
  const ScratchFolder scratch;
  std::error_code error;
  remove_tree(scratch.path() / "nothing", error);
  EXPECT_FALSE(error) << error.message();
  wait_for_freed_room();
}

}  // namespace
}  // namespace fermata::storage
