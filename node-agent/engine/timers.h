// Interval timers (setitimer(2)) and POSIX timers (timer_create(2)) of a process. Tracer's thread
// only.
#pragma once

#include <map>

#include "node-agent/engine/held.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/process.pb.h"

namespace fermata::engine {

/// `vtids`: thread ids in the pod by host TID.
Status capture_timers(const HeldProcess& process, CaptureRemote& remote,
                      const std::map<pid_t, int>& vtids, image::Process& out);

/// Makes and arms them. The threads of the process exist.
Status rebuild_timers(RebuildRemote& remote, const image::Process& process);

}  // namespace fermata::engine
