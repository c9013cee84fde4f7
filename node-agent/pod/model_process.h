// What a pod takes over from a process outside that stands for it (the stub of a Slurm task): the
// mount namespace it derives from, its cgroup v1 groups (where there is v2 alone, the pod's group
// lies within the task's), processors, limits and niceness. So what Slurm has given to the task - a
// private /tmp, cpusets, memory limits, the freezer, accounting - holds for the pod.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::pod {

class ModelProcess {
 public:
  /// Reads it all from a living process. Root only.
  static Result<ModelProcess> of(pid_t pid);

  /// In a child between clone and execve that has no threads: null, or what failed, with errno.
  const char* become_like() const;

  /// The pod stands for a process on these, too.
  void run_also_on(const std::vector<uint32_t>& processors);

  mode_t umask() const { return umask_; }
  const std::vector<uint32_t>& processors() const { return processors_; }
  /// Where the pod's group has to lie; nullopt: it is free.
  const std::optional<std::filesystem::path>& v2_group() const { return v2_group_; }

 private:
  std::array<rlimit, RLIM_NLIMITS> limits_{};
  UniqueFd mounts_;
  std::vector<UniqueFd> groups_;  ///< cgroup.procs, of v1, open for writing
  std::optional<std::filesystem::path> v2_group_;
  int niceness_ = 0;
  mode_t umask_ = 022;
  std::string oom_score_;
  std::vector<uint32_t> processors_;  ///< it may run on
};

}  // namespace fermata::pod
