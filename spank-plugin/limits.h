// The limits of a task: what `ulimit` said where srun was called. Slurm sets them after the
// plugins' last turn (set_user_limits() of slurmstepd, 22.05), and the stub does not come back from
// that one, so it does so itself. In a task's process, as its user.
#pragma once

#include <sys/resource.h>

#include <string>
#include <vector>

namespace fermata::spank_plugin {

struct SoftLimit {
  int resource;  ///< of setrlimit(2)
  rlim_t value;
};

/// What the SLURM_RLIMIT_* variables ask for; they are taken out, as Slurm does. Those that the
/// site does not propagate (slurm.conf, PropagateResourceLimits) and srun did not ask for
/// (--propagate) are left out.
std::vector<SoftLimit> take_limits(std::vector<std::string>& environment);

/// Of this process, never above its hard ones.
void set_limits(const std::vector<SoftLimit>& limits);

}  // namespace fermata::spank_plugin
