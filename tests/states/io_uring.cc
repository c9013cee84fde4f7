// An io_uring instance: to be refused by name, and to run on. Where the kernel allows none, `ready`
// says so.
#include <linux/io_uring.h>

#include "tests/states/state.h"

int main() {
  io_uring_params parameters{};
  const auto fd = static_cast<int>(syscall(SYS_io_uring_setup, 4, &parameters));
  state::ready(fd < 0 ? "unavailable" : "");
  state::wait_for_go();
  CHECK(fd < 0 || fcntl(fd, F_GETFD) >= 0, "the ring is gone");
  state::pass();
}
