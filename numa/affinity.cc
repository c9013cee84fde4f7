#include "numa/affinity.h"

#include <fmt/format.h>
#include <sched.h>

#include <memory>

#include "numa/number_list.h"

namespace fermata::numa {
namespace {

// cpu_set_t ends at CPU 1023.
struct FreeCpus {
  void operator()(cpu_set_t* set) const { CPU_FREE(set); }
};
using Cpus = std::unique_ptr<cpu_set_t, FreeCpus>;

Cpus empty_set() {
  Cpus set(CPU_ALLOC(kMaxNumber));
  if (set != nullptr) CPU_ZERO_S(CPU_ALLOC_SIZE(kMaxNumber), set.get());
  return set;
}

}  // namespace

Result<std::vector<int>> affinity_of(pid_t tid) {
  const Cpus set = empty_set();
  if (set == nullptr || ::sched_getaffinity(tid, CPU_ALLOC_SIZE(kMaxNumber), set.get()) != 0) {
    return errno_failure(errno, fmt::format("sched_getaffinity of thread {}", tid));
  }
  std::vector<int> cpus;
  for (int cpu = 0; cpu < kMaxNumber; ++cpu) {
    if (CPU_ISSET_S(static_cast<size_t>(cpu), CPU_ALLOC_SIZE(kMaxNumber), set.get())) {
      cpus.push_back(cpu);
    }
  }
  return cpus;
}

Status apply_affinity(pid_t tid, const std::vector<int>& cpus) {
  const Cpus set = empty_set();
  if (set == nullptr) return errno_status(ENOMEM, "sched_setaffinity");
  for (const int cpu : cpus) {
    if (cpu < 0 || cpu >= kMaxNumber) continue;
    CPU_SET_S(static_cast<size_t>(cpu), CPU_ALLOC_SIZE(kMaxNumber), set.get());
  }
  if (::sched_setaffinity(tid, CPU_ALLOC_SIZE(kMaxNumber), set.get()) != 0) {
    return errno_status(
        errno, fmt::format("sched_setaffinity of thread {} to CPUs {}", tid, format_list(cpus)));
  }
  return Status::ok();
}

}  // namespace fermata::numa
