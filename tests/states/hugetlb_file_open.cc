// A file of hugetlbfs that is open and not mapped: it was named, as files on storage are, and its
// bytes were nowhere.
#include <sys/mount.h>
#include <sys/stat.h>

#include "tests/states/state.h"

int main() {
  const std::string folder = state::path("huge");
  state::must(mkdir(folder.c_str(), 0700), "mkdir");
  state::must(mount("none", folder.c_str(), "hugetlbfs", 0, "pagesize=2M"), "mounting hugetlbfs");
  const int fd = open((folder + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  CHECK(fd >= 0, "a file of hugetlbfs");
  state::hold();
  CHECK(close(fd) == 0, "it is open as before");
  state::must(umount2(folder.c_str(), MNT_DETACH), "unmounting hugetlbfs");
  state::pass();
}
