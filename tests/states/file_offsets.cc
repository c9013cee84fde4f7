// Offsets of regular files: shared by dup and fork, separate for separate opens; the files stay as
// they are.
#include "tests/states/state.h"

int main() {
  const std::string name = state::path("data");
  const int one = state::must(open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644), "open");
  state::must(write(one, "0123456789abcdefghij", 20), "write");
  const int twin = state::must(dup(one), "dup");
  const int far = state::must(fcntl(one, F_DUPFD_CLOEXEC, 500), "F_DUPFD_CLOEXEC");
  const int other = state::must(open(name.c_str(), O_RDONLY), "second open");
  state::must(lseek(one, 5, SEEK_SET), "lseek");
  state::must(lseek(other, 12, SEEK_SET), "lseek");
  const pid_t pid = state::child([one, other] {
    state::wait_for_go();
    char text[4] = {};
    CHECK(read(one, text, 3) == 3 && memcmp(text, "567", 3) == 0, "the child read '%s'", text);
    CHECK(read(other, text, 3) == 3 && memcmp(text, "cde", 3) == 0, "the child read '%s'", text);
  });
  state::hold();
  state::reap(pid);
  CHECK(lseek(one, 0, SEEK_CUR) == 8, "parent and child no longer share the offset");
  CHECK(lseek(twin, 0, SEEK_CUR) == 8, "a dup no longer shares the offset");
  CHECK(lseek(far, 0, SEEK_CUR) == 8, "descriptor 500 no longer shares the offset");
  CHECK(lseek(other, 0, SEEK_CUR) == 15, "the second open has another offset");
  CHECK((fcntl(far, F_GETFD) & FD_CLOEXEC) != 0, "FD_CLOEXEC was lost");
  CHECK((fcntl(twin, F_GETFD) & FD_CLOEXEC) == 0, "FD_CLOEXEC came out of nothing");
  CHECK(lseek(one, 0, SEEK_END) == 20, "the file's size changed");
  state::pass();
}
