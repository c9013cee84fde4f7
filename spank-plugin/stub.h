// The stub: the process that Slurm has for a task whose rank lives in a pod. It tells the agent of
// the node what the task is, hands Slurm's signals to it and ends as the rank ends. Its own program
// is slurmstepd's child: nothing here may depend on slurmstepd's threads, which are not in it.
#pragma once

#include <chrono>
#include <string>

#include "common/status.h"
#include "common/stub_message.h"
#include "common/unique_fd.h"

namespace fermata::spank_plugin {

/// Connects to the agent as root, which is what it believes, and says who the task is. The
/// descriptor is close-on-exec. kGone: no agent is there for so long.
Result<UniqueFd> introduce(const std::string& socket, const StepTask& task,
                           std::chrono::milliseconds patience);

/// A step that cannot begin.
struct Refused {
  int exit_status = 1;
  std::string why;  ///< empty: nothing is to be said
};
/// Hands the rank over and is its stub until it ends. Returns only when the step cannot begin.
Refused serve(UniqueFd agent, const std::string& socket, const StepTask& task,
              const TaskCommand& command);

/// Where a shell would find `name`, with the variables of `environment`; `name` when nowhere.
std::string find_in_path(const std::string& name, const std::vector<std::string>& environment);

}  // namespace fermata::spank_plugin
