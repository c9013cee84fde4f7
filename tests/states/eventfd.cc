// eventfds: the counter, semaphore mode, and one shared by two processes.
#include <sys/eventfd.h>

#include "tests/states/state.h"

int main() {
  const int plain = state::must(eventfd(5, EFD_NONBLOCK), "eventfd");
  const int semaphore = state::must(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK), "eventfd");
  const int shared = state::must(eventfd(0, 0), "eventfd");
  const uint64_t huge = 0xfffffffffffffff0;
  state::must(write(plain, &huge, 8), "write");
  const pid_t pid = state::child([shared] {
    state::wait_for_go();
    const uint64_t number = 17;
    state::must(write(shared, &number, 8), "write");
  });
  state::hold();
  uint64_t value = 0;
  CHECK(read(plain, &value, 8) == 8 && value == huge + 5, "the counter is %lu", value);
  for (int i = 0; i < 3; i++) {
    CHECK(read(semaphore, &value, 8) == 8 && value == 1, "the semaphore gave %lu", value);
  }
  CHECK(read(semaphore, &value, 8) == -1 && errno == EAGAIN, "the semaphore has more than 3");
  CHECK(read(shared, &value, 8) == 8 && value == 17, "the child's number came as %lu", value);
  state::reap(pid);
  state::pass();
}
