// Ends of twins whose pod runs on. A process of 1 GiB in small pages takes 30 to 50 ms to end,
// which nobody need wait for but who looks at the pod next: a thread of ours sees to it. Any
// thread.
#pragma once

#include <sys/types.h>

namespace fermata::engine {

/// Kills a twin, waits for it as its tracer, and until PID 1 of its pod has done so, in the
/// background.
void end_twin(pid_t pid);

/// Returns when all that end_twin() was called for are gone: before that a capture would find them
/// as the pod's.
void wait_for_twin_ends();

}  // namespace fermata::engine
