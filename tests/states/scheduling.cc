// Nice value, scheduling policy, CPU affinity and I/O priority of two threads.
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

#include "tests/states/state.h"

namespace {
struct Scheduling {
  int policy;
  int nice;
  long io_priority;
  cpu_set_t cpus;
};

Scheduling mine() {
  Scheduling now{};
  now.policy = sched_getscheduler(0);
  errno = 0;
  now.nice = getpriority(PRIO_PROCESS, 0);
  now.io_priority = syscall(SYS_ioprio_get, 1, 0);
  sched_getaffinity(0, sizeof now.cpus, &now.cpus);
  return now;
}

void check(const Scheduling& before, const char* which) {
  const Scheduling now = mine();
  CHECK(now.policy == before.policy, "%s: policy %d, was %d", which, now.policy, before.policy);
  CHECK(now.nice == before.nice, "%s: nice %d, was %d", which, now.nice, before.nice);
  CHECK(now.io_priority == before.io_priority, "%s: I/O priority %lx, was %lx", which,
        now.io_priority, before.io_priority);
  CHECK(CPU_EQUAL(&now.cpus, &before.cpus), "%s: bound to %d CPUs, was %d", which,
        CPU_COUNT(&now.cpus), CPU_COUNT(&before.cpus));
}

void set(int policy, int nice, int io_class, size_t skip) {
  const sched_param parameters{};
  state::must(sched_setscheduler(0, policy, &parameters), "sched_setscheduler");
  state::must(setpriority(PRIO_PROCESS, 0, nice), "setpriority");
  state::must(syscall(SYS_ioprio_set, 1, 0, io_class << 13 | 4), "ioprio_set");
  cpu_set_t allowed;
  sched_getaffinity(0, sizeof allowed, &allowed);
  for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed) || skip-- != 0) continue;
    CPU_ZERO(&allowed);
    CPU_SET(cpu, &allowed);
    sched_setaffinity(0, sizeof allowed, &allowed);
    break;
  }
}
}  // namespace

int main() {
  std::thread other([] {
    set(SCHED_IDLE, 7, 3, 1);
    const Scheduling before = mine();
    state::wait_for_go();
    check(before, "thread");
  });
  set(SCHED_BATCH, 3, 2, 0);
  const Scheduling before = mine();
  state::sleep_ms(50);
  state::hold();
  check(before, "main");
  other.join();
  state::pass();
}
