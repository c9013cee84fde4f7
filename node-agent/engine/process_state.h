// What a process has besides memory, files, threads, signals and timers: memory layout, limits,
// switches of prctl(2), working directory, umask. Tracer's thread only.
#pragma once

#include "node-agent/engine/held.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/process.pb.h"

namespace fermata::engine {

/// kCannotHold: the program asked not to be traced (PR_SET_DUMPABLE 0), its executable or directory
/// is deleted.
Status capture_process_state(const HeldProcess& process, CaptureRemote& remote,
                             image::Process& out);

/// With the maps in place: layout, executable, directory, umask, switches, limits.
Status rebuild_process_state(RebuildRemote& remote, const image::Process& process);

/// After the change of user, which clears it: PR_SET_DUMPABLE.
Status rebuild_dumpable(RebuildRemote& remote);

}  // namespace fermata::engine
