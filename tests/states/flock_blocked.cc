// A child blocked in flock(2) for a lock that its parent holds until go.
#include <sys/file.h>

#include "tests/states/state.h"

int main() {
  const std::string name = state::path("locked");
  const int fd = state::must(open(name.c_str(), O_RDWR | O_CREAT, 0644), "open");
  state::must(flock(fd, LOCK_EX), "flock");
  const pid_t pid = state::child([&name] {
    const int own = state::must(open(name.c_str(), O_RDWR), "open in the child");
    state::must(flock(own, LOCK_EX), "flock in the child");
    CHECK(state::go(), "the child got the lock while its parent held it");
  });
  state::wait_in_call(pid, pid, SYS_flock);
  state::hold();
  CHECK(waitpid(pid, nullptr, WNOHANG) == 0, "the child ended before the lock was free");
  state::must(flock(fd, LOCK_UN), "unlock");
  state::reap(pid);
  state::pass();
}
