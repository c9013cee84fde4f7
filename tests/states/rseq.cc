// Restartable sequences registered by the C library for each thread: the kernel goes on writing the
// CPU number.
#include <sched.h>
#include <sys/rseq.h>

#include "tests/states/state.h"

namespace {
// rseq(2): the kernel stores the CPU at each return to user space, -1 or -2 while nothing is
// registered.
void check_registered(const char* which) {
  const auto* area = reinterpret_cast<const volatile struct rseq*>(
      static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset);
  for (int i = 0; i < 100; i++) {
    sched_yield();
    const auto cpu = static_cast<int>(area->cpu_id);
    CHECK(cpu >= 0, "%s: rseq is not registered (cpu_id %d)", which, cpu);
  }
  cpu_set_t one;
  CPU_ZERO(&one);
  const int target = sched_getcpu();
  CPU_SET(static_cast<size_t>(target), &one);
  sched_setaffinity(0, sizeof one, &one);
  CHECK(static_cast<int>(area->cpu_id) == target, "%s: rseq says CPU %u, the thread is bound to %d",
        which, area->cpu_id, target);
  // Registered already: EBUSY or EINVAL from the kernel, success only for an area that had been
  // lost.
  const long again = syscall(SYS_rseq, area, 32, 0, 0x53053053);
  CHECK(again == -1, "%s: rseq could be registered a second time", which);
}
}  // namespace

int main() {
  CHECK(__rseq_size > 0, "the C library did not register rseq");
  std::thread other([] {
    state::wait_for_go();
    check_registered("thread");
  });
  state::hold();
  check_registered("main");
  other.join();
  state::pass();
}
