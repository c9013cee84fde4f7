// Ends that nobody need wait for, seen to by threads of ours: of twins whose pod runs on (a process
// of 1 GiB in small pages takes 30 to 50 ms to end, which concerns only who looks at the pod next),
// and of a PID 1 that was killed in our hands. Any thread.
#pragma once

#include <sys/types.h>

#include <vector>

namespace fermata::engine {

/// Kills a twin, waits for it as its tracer, and until PID 1 of its pod has done so, in the
/// background.
void end_twin(pid_t pid);

/// Returns when all that end_twin() was called for are gone: before that a capture would find them
/// as the pod's.
void wait_for_twin_ends();

/// Waits, in the background and however long it takes, for these killed threads of a PID 1, whose
/// tracer we are; its leader is for its parent. The last one stays until all others of its
/// namespace were waited for (pid_namespaces(7)): its twins, too, whose memory may still be read.
void reap_init(std::vector<pid_t> tids);

}  // namespace fermata::engine
