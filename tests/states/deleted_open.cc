// A file deleted while two processes hold it open, with its contents and offset; and one deleted
// with a hard link left.
#include <sys/stat.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = 300 * 1000;
  const std::string name = state::path("deleted");
  const std::string linked = state::path("linked");
  static uint8_t data[kSize];
  state::fill(data, kSize, 13);
  const int fd = state::must(open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0640), "open");
  state::must(write(fd, data, kSize), "write");
  state::must(lseek(fd, 1000, SEEK_SET), "lseek");
  state::must(unlink(name.c_str()), "unlink");
  const pid_t pid = state::child([fd] {
    state::wait_for_go();
    state::must(pwrite(fd, "CHILD", 5, 50), "pwrite in the child");
  });
  state::hold();
  state::reap(pid);
  CHECK(lseek(fd, 0, SEEK_CUR) == 1000, "the offset moved");
  struct stat info {};
  state::must(fstat(fd, &info), "fstat");
  CHECK(info.st_nlink == 0, "the file has %lu names", info.st_nlink);
  CHECK(info.st_size == ssize_t{kSize}, "the file has %ld bytes", info.st_size);
  CHECK((info.st_mode & 0777) == 0640, "its mode is %o", info.st_mode);
  static uint8_t now[kSize];
  CHECK(pread(fd, now, kSize, 0) == ssize_t{kSize}, "pread");
  CHECK(memcmp(now + 50, "CHILD", 5) == 0, "the child wrote to another file");
  memcpy(now + 50, data + 50, 5);
  CHECK(memcmp(now, data, kSize) == 0, "the contents changed");
  CHECK(access(name.c_str(), F_OK) != 0, "the deleted file has a name again");
  state::pass();
}
