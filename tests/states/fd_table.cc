// The descriptor table: holes, high numbers, /dev nodes, close-on-exec flags, and a program
// executed after the cut.
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "tests/states/state.h"

namespace {
void check_device(int fd, unsigned minor_number) {
  struct stat info {};
  state::must(fstat(fd, &info), "fstat");
  CHECK(S_ISCHR(info.st_mode) && major(info.st_rdev) == 1 && minor(info.st_rdev) == minor_number,
        "descriptor %d is another device", fd);
}

int open_ones() {
  int count = 0;
  for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}
}  // namespace

int main() {
  const int null = state::must(open("/dev/null", O_RDWR), "open");
  const int zero = state::must(open("/dev/zero", O_RDONLY | O_CLOEXEC), "open");
  const int random = state::must(open("/dev/urandom", O_RDONLY), "open");
  state::must(dup2(null, 200), "dup2");
  state::must(dup3(zero, 900, O_CLOEXEC), "dup3");
  close(null);
  const int before = open_ones();
  state::hold();
  CHECK(fcntl(null, F_GETFD) == -1 && errno == EBADF, "a closed descriptor is open");
  check_device(200, 3);
  check_device(zero, 5);
  check_device(900, 5);
  check_device(random, 9);
  CHECK(fcntl(900, F_GETFD) == FD_CLOEXEC && fcntl(200, F_GETFD) == 0, "close-on-exec changed");
  CHECK(open_ones() == before, "%d descriptors are open, not %d", open_ones(), before);
  CHECK(open("/dev/null", O_RDONLY) == null, "the lowest free number is another");
  const int status = system("test -e /proc/self/fd/200 && ! test -e /proc/self/fd/900");
  CHECK(status == 0, "an executed program inherits other descriptors (%d)", status);
  state::pass();
}
