#include "storage/removal.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <memory>
#include <utility>
#include <vector>

#include "common/background.h"
#include "common/unique_fd.h"

namespace fermata::storage {
namespace {

constexpr decltype(statfs::f_type) kXfs = 0x58465342;  // not in <linux/magic.h>

Background& closing() {
  static Background background;
  return background;
}

/// Network file systems give an open file another name in the same folder, which then is not empty.
bool forgets_names(const std::filesystem::path& folder) {
  struct statfs status {};
  if (::statfs(folder.c_str(), &status) != 0) return false;
  return status.f_type == EXT4_SUPER_MAGIC || status.f_type == kXfs ||
         status.f_type == BTRFS_SUPER_MAGIC;
}

std::vector<UniqueFd> open_files(const std::filesystem::path& folder) {
  constexpr size_t kMost = 64;  // a set has few; whoever has more waits
  std::vector<UniqueFd> files;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end;
       !error && at != end && files.size() < kMost; at.increment(error)) {
    UniqueFd file(::open(at->path().c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (file) files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

void remove_tree(const std::filesystem::path& folder, std::error_code& error) {
  // What is copied with the task must be: a descriptor is not.
  auto files = std::make_shared<std::vector<UniqueFd>>();
  if (forgets_names(folder)) *files = open_files(folder);
  std::filesystem::remove_all(folder, error);
  if (!files->empty()) closing().add([files = std::move(files)] { files->clear(); });
}

void wait_for_freed_room() { closing().wait(); }

}  // namespace fermata::storage
