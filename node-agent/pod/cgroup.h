// The pod's group in the cgroup v2 tree: one directory, no controllers enabled, so that it works
// beside v1 (hybrid) and under a parent that holds processes itself. Called from one thread.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::pod {

/// Makes `<mount>/<delegated part>/fermata/<name>`, or `<below>/fermata/<name>` where that is
/// given. kConflict when processes are in it already.
Result<std::filesystem::path> make_group(
    const std::string& name, const std::optional<std::filesystem::path>& below = std::nullopt);

/// The v2 group that a process is in.
Result<std::filesystem::path> group_of_process(pid_t pid);

/// cgroup.procs of a group, open for writing: "0" written to it moves the writer in.
Result<UniqueFd> open_group_procs(const std::filesystem::path& group);

/// SIGKILLs what is in the group, frozen or not (cgroup.kill: Linux 5.14). Fine when the group is
/// gone.
Status kill_group(const std::filesystem::path& group);

/// Waits until the group is empty and removes it, and its parent when that is empty too. kTimeout
/// after `deadline_ms`, naming a process that stays. Fine when the group is gone already.
Status remove_group(const std::filesystem::path& group, int deadline_ms);

}  // namespace fermata::pod
