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

TEST(Removal, OfWhatIsNotThereIsNoError) {
  const ScratchFolder scratch;
  std::error_code error;
  remove_tree(scratch.path() / "nothing", error);
  EXPECT_FALSE(error) << error.message();
  wait_for_freed_room();
}

}  // namespace
}  // namespace fermata::storage
