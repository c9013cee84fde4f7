// Where the threads and pages of a running job are, seen from outside: the job goes on meanwhile.
// For its owner and root; any thread.
#pragma once

#include <filesystem>

#include "common/status.h"
#include "proto/placement.pb.h"

namespace fermata::node_agent {

/// Of all processes in a pod's cgroup v2 group, by their numbers in the pod. Without memory
/// policies, which a process alone can tell. Who ends meanwhile is left out. kPermission: the job
/// is another user's.
Result<image::Placement> observe_placement(const std::filesystem::path& group);

}  // namespace fermata::node_agent
