// A map of a file of hugetlbfs (its mount is gone at once, as nobody else needs it).
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kPage = size_t{2} << 20;
  const std::string folder = state::path("huge");
  state::must(mkdir(folder.c_str(), 0700), "mkdir");
  state::must(mount("none", folder.c_str(), "hugetlbfs", 0, "pagesize=2M"), "mounting hugetlbfs");
  const int fd = open((folder + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int error = errno;
  state::must(umount2(folder.c_str(), MNT_DETACH), "unmounting hugetlbfs");
  errno = error;
  CHECK(fd >= 0 && memory != MAP_FAILED, "mapping a file of hugetlbfs");
  close(fd);
  state::fill(memory, kPage, 1);
  state::hold();
  state::check_filled(memory, kPage, 1, "a page of a file");
  state::pass();
}
