// What a thread has for itself: registers, signal mask, alternate stack, robust list, rseq,
// scheduling. Capture and rebuild side by side. Tracer's thread only.
#pragma once

#include <optional>

#include "node-agent/engine/held.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/process.pb.h"

namespace fermata::engine {

Status capture_thread(HeldProcess& process, HeldThread& thread, image::Thread& out);

/// Everything but registers, mask, credentials: made while the bootstrap area is there.
Status rebuild_thread(RebuildRemote& remote, const image::Thread& thread);

/// What only an unprivileged thread may have set (scheduling, parent-death signal): after the
/// change of user.
Status rebuild_thread_as_user(RebuildRemote& remote, const image::Thread& thread);

/// Starts again the relative sleep that the cut interrupted, with the time that was left, so that
/// the kernel's restart block is there. While the bootstrap area is there; no call may be made in
/// the thread after it but through stop_for_registers(). Returns what the sleep returned; nullopt:
/// the thread did not sleep.
Result<std::optional<long>> rebuild_sleep(RebuildRemote& remote, const image::Thread& thread);

/// Loads registers and mask: the last step. `sleep` is what rebuild_sleep() said. The thread is
/// left in its signal path.
Status load_registers(RebuildRemote& remote, const image::Thread& thread,
                      std::optional<long> sleep);

}  // namespace fermata::engine
