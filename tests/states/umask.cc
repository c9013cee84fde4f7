// The file mode creation mask, of two processes.
#include <sys/stat.h>

#include "tests/states/state.h"

int main() {
  umask(027);
  const pid_t pid = state::child([] {
    umask(0);
    state::wait_for_go();
    CHECK(umask(0) == 0, "the child's umask changed");
  });
  state::sleep_ms(20);
  state::hold();
  state::reap(pid);
  const std::string name = state::path("masked");
  const int fd = state::must(open(name.c_str(), O_WRONLY | O_CREAT, 0666), "open");
  struct stat info {};
  fstat(fd, &info);
  CHECK((info.st_mode & 0777) == 0640, "a new file has mode %o", info.st_mode & 0777);
  CHECK(umask(0) == 027, "the umask changed");
  state::pass();
}
