// Users, groups, capabilities, namespaces. A rebuilt process gets them from the pod's owner; an
// image can only take capabilities away. Tracer's thread only.
#pragma once

#include "common/credentials.h"
#include "node-agent/engine/held.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/process.pb.h"

namespace fermata::engine {

/// kCannotHold when the process has another user, other groups, namespaces or root directory than
/// PID 1 of the pod, or a seccomp filter: it could not be given back what it has.
Status check_identity(const HeldProcess& process, const HeldProcess& init);

/// First of all calls of a process under construction: it opens files with the owner's rights from
/// here on. Children and threads inherit it. Capabilities that do not concern files stay for
/// building.
Status take_file_identity(RebuildRemote& remote, const Credentials& owner);

/// Last of all privileged calls of a thread: it becomes the owner, with no more capabilities than
/// it had.
Status take_identity(RebuildRemote& remote, const Credentials& owner, const image::Thread& thread);

}  // namespace fermata::engine
