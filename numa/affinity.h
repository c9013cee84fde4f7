// CPUs that a thread may run on, for machines of any size. Any thread.
#pragma once

#include <sys/types.h>

#include <vector>

#include "common/status.h"

namespace fermata::numa {

/// sched_getaffinity(2); 0: the calling thread.
Result<std::vector<int>> affinity_of(pid_t tid);

/// sched_setaffinity(2) of the thread with host TID `tid`.
Status apply_affinity(pid_t tid, const std::vector<int>& cpus);

}  // namespace fermata::numa
