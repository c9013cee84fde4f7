#include "storage/removal.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <atomic>
#include <chrono>
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

// A set has few files; whoever removes more waits for the rest.
constexpr size_t kMost = 64;
std::atomic<size_t> open_now{0};

std::vector<UniqueFd> open_files(const std::filesystem::path& folder) {
  std::vector<UniqueFd> files;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end;
       !error && at != end && open_now < kMost; at.increment(error)) {
    UniqueFd file(::open(at->path().c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!file) continue;
    ++open_now;
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

void remove_tree(const std::filesystem::path& folder, std::error_code& error) {
  // What is copied with the task must be: a descriptor is not.
  auto files = std::make_shared<std::vector<UniqueFd>>();
  if (forgets_names(folder)) *files = open_files(folder);
  std::filesystem::remove_all(folder, error);
  if (files->empty()) return;
  closing().add([files = std::move(files)] {
    for (UniqueFd& file : *files) {
      file = UniqueFd();
      --open_now;
    }
  });
}

void wait_for_freed_room() {
  constexpr std::chrono::seconds kAtMost(1);
  closing().wait_for(kAtMost);
}

}  // namespace fermata::storage
