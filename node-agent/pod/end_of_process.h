// How a process ended that is not our child: the PID 1 of a pod whose agent was killed. Any thread.
#pragma once

#include <sys/types.h>

#include <optional>

namespace fermata::pod {

/// The wait status (wait(2)) of a process that has ended, by a pidfd that was opened while it
/// lived: from the kernel's memory of it once it was waited for (PIDFD_GET_INFO with
/// PIDFD_INFO_EXIT, Linux 6.15), before that from its /proc/PID/stat (field 52, proc(5)). nullopt:
/// it still lives, or nobody can tell any more.
std::optional<int> wait_status_of(int pidfd, pid_t pid);

}  // namespace fermata::pod
