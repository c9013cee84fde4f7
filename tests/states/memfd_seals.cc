// memfds: contents, size, offset and seals, shared with a child and mapped.
#include <sys/mman.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = 5 * 4096 + 17;
  static uint8_t data[kSize];
  state::fill(data, kSize, 21);
  const int fd = state::must(memfd_create("fermata", MFD_ALLOW_SEALING | MFD_CLOEXEC), "memfd");
  state::must(write(fd, data, kSize), "write");
  state::must(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), "F_ADD_SEALS");
  state::must(lseek(fd, 100, SEEK_SET), "lseek");
  void* view = mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE, fd, 0);
  CHECK(view != MAP_FAILED, "mmap");
  const int open_one = state::must(memfd_create("open", 0), "memfd");
  state::must(ftruncate(open_one, 8192), "ftruncate");
  auto* shared =
      static_cast<uint8_t*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, open_one, 0));
  CHECK(shared != MAP_FAILED, "mmap");
  shared[5000] = 55;
  const pid_t pid = state::child([shared] {
    state::wait_for_go();
    shared[5001] = 56;
  });
  state::hold();
  state::reap(pid);
  CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), "seals are %x",
        static_cast<unsigned>(fcntl(fd, F_GET_SEALS)));
  CHECK(lseek(fd, 0, SEEK_CUR) == 100, "the offset moved");
  CHECK(write(fd, "x", 1) == -1 && errno == EPERM, "a sealed memfd can be written");
  state::check_filled(view, kSize, 21, "the mapped memfd");
  static uint8_t now[kSize + 1];
  CHECK(pread(fd, now, kSize + 1, 0) == ssize_t{kSize}, "the memfd's size changed");
  state::check_filled(now, kSize, 21, "the memfd");
  uint8_t two[2] = {};
  CHECK(pread(open_one, two, 2, 5000) == 2 && two[0] == 55 && two[1] == 56,
        "memfd, parent's and child's mapping no longer are one memory");
  state::pass();
}
