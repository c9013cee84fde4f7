// The control groups that somebody else has put a process in: Slurm's. A pod joins those of the
// task that it stands for. Plain functions; any thread.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"

namespace fermata::pod {

/// A group in one of the trees of cgroup v1.
struct V1Group {
  std::string controllers;  ///< as /proc/PID/cgroup has them: "cpu,cpuacct"
  std::filesystem::path path;
};

/// The v1 groups the process is in. Trees that are not mounted here are left out: they hold nothing
/// of Slurm's.
Result<std::vector<V1Group>> v1_groups_of(pid_t pid);

/// Where there is no cgroup v1: the v2 group that Slurm (cgroup/v2) has made for the process, a
/// task of a step. nullopt: it is in none of Slurm's.
Result<std::optional<std::filesystem::path>> slurm_v2_group_of(pid_t pid);

/// kConflict: a job that is suspended, as people are told of it.
Status suspended();

/// As suspended(): `scontrol suspend` holds the process `init`, PID 1 of the pod whose v2 group
/// this is, by the freezer of v1 or that of an outer group of v2. Not to be asked while the group
/// itself is frozen.
Status check_not_suspended(pid_t init, const std::filesystem::path& group);

}  // namespace fermata::pod
