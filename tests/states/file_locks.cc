// POSIX record locks, an OFD lock and a flock lock, held across the cut and seen by others after
// it.
#include <sys/file.h>

#include "tests/states/state.h"

namespace {
struct flock range(short type, off_t start, off_t length) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return lock;
}

/// The kind of lock that would stand in the way of a write lock at [start, start + 1).
short held(const std::string& name, off_t start) {
  const int fd = state::must(open(name.c_str(), O_RDWR), "open");
  struct flock lock = range(F_WRLCK, start, 1);
  state::must(fcntl(fd, F_GETLK, &lock), "F_GETLK");
  close(fd);
  return lock.l_type;
}
}  // namespace

int main() {
  const std::string records = state::path("records");
  const std::string whole = state::path("whole");
  const std::string ofd_name = state::path("ofd");
  const int fd = state::must(open(records.c_str(), O_RDWR | O_CREAT, 0644), "open");
  struct flock lock = range(F_WRLCK, 10, 5);
  state::must(fcntl(fd, F_SETLK, &lock), "F_SETLK");
  lock = range(F_RDLCK, 100, 0);
  state::must(fcntl(fd, F_SETLK, &lock), "F_SETLK");
  const int flocked = state::must(open(whole.c_str(), O_RDWR | O_CREAT, 0644), "open");
  state::must(flock(flocked, LOCK_SH), "flock");
  const int ofd = state::must(open(ofd_name.c_str(), O_RDWR | O_CREAT, 0644), "open");
  lock = range(F_WRLCK, 0, 7);
  state::must(fcntl(ofd, F_OFD_SETLK, &lock), "F_OFD_SETLK");
  state::hold();
  const pid_t pid = state::child([&] {
    CHECK(held(records, 9) == F_UNLCK, "byte 9 is locked");
    CHECK(held(records, 10) == F_WRLCK && held(records, 14) == F_WRLCK, "the write lock is gone");
    CHECK(held(records, 15) == F_UNLCK, "byte 15 is locked");
    CHECK(held(records, 5000) == F_RDLCK, "the read lock to the end of the file is gone");
    CHECK(held(ofd_name, 6) == F_WRLCK && held(ofd_name, 7) == F_UNLCK, "the OFD lock changed");
    const int other = state::must(open(whole.c_str(), O_RDWR), "open");
    CHECK(flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK, "the flock lock is gone");
    CHECK(flock(other, LOCK_SH | LOCK_NB) == 0, "the shared flock lock became exclusive");
  });
  state::reap(pid);
  lock = range(F_UNLCK, 0, 0);
  state::must(fcntl(fd, F_SETLK, &lock), "unlock");
  state::must(flock(flocked, LOCK_UN), "unlock");
  const pid_t again = state::child([&] {
    CHECK(held(records, 12) == F_UNLCK, "an unlocked record is still locked");
    const int other = state::must(open(whole.c_str(), O_RDWR), "open");
    CHECK(flock(other, LOCK_EX | LOCK_NB) == 0, "an unlocked file is still locked");
  });
  state::reap(again);
  state::pass();
}
