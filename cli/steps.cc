#include "cli/steps.h"

#include <algorithm>

#include "proto/outcome.h"

namespace fermata::cli {

Result<NamedSteps> steps_of(CoordinatorAccess& access, const std::string& job) {
  FERMATA_ASSIGN(const JobStep named, parse_job_step(job));
  NamedSteps found;
  found.whole = job.find('.') == std::string::npos;
  FERMATA_ASSIGN(const wire::JobsReply reply, access.client().jobs());
  FERMATA_TRY_RESULT(wire::to_status(reply.outcome()));
  for (const wire::JobInfo& info : reply.jobs()) {
    const JobStep step{info.job(), info.step()};
    if (found.whole ? step.job != named.job : step != named) continue;
    found.steps.push_back(step);
    found.slurm = found.slurm || info.slurm();
  }
  if (found.steps.empty()) found.steps.push_back(named);
  std::sort(found.steps.begin(), found.steps.end());
  return found;
}

}  // namespace fermata::cli
