// Signal dispositions and pending signals, capture and rebuild. Tracer's thread only.
#pragma once

#include <sys/types.h>

#include "node-agent/engine/held.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/process.pb.h"

namespace fermata::engine {

using PendingSignals = google::protobuf::RepeatedPtrField<image::PendingSignal>;

/// What is queued for the thread, or with `shared` for its process (ptrace(2), PTRACE_PEEKSIGINFO).
Status capture_pending(pid_t tid, bool shared, PendingSignals& out);

/// Dispositions that differ from the default.
Status capture_actions(const HeldProcess& process, CaptureRemote& remote, image::Process& out);

/// Sets all dispositions. SIGTRAP's is left for rebuild_trap_action(): building uses that signal.
Status rebuild_actions(RebuildRemote& remote, const image::Process& process);
/// Sets SIGTRAP's by way of `gadget` (RebuildRemote::call_at) from bytes at `buffer` in the
/// process.
Status rebuild_trap_action(RebuildRemote& remote, const image::Process& process, uint64_t gadget);

/// Queues the signals again, each with its siginfo, after dropping those that building left
/// (SIGCHLD). The thread's mask holds all of them back.
Status rebuild_pending(RebuildRemote& remote, int vpid, int vtid, const PendingSignals& signals,
                       bool shared);
Status drop_pending(RebuildRemote& remote);

}  // namespace fermata::engine
