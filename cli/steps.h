// The steps that a command line names: one, or all of a job that run. One thread.
#pragma once

#include <string>
#include <vector>

#include "cli/coordinator.h"

namespace fermata::cli {

struct NamedSteps {
  std::vector<JobStep> steps;  ///< in order, at least one
  bool slurm = false;          ///< they are Slurm's
  bool whole = false;          ///< all of the job
  bool slurm_job() const { return slurm && whole; }
};

/// "12.1": that step. "12": every step of job 12 that the coordinator has; step 0 where it has
/// none, so that the request itself tells that there is none.
Result<NamedSteps> steps_of(CoordinatorAccess& access, const std::string& job);

}  // namespace fermata::cli
