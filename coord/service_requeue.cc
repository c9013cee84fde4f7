// Jobs of Slurm that are requeued before their time limit ends them.
#include <fmt/format.h>

#include <algorithm>

#include "common/log.h"
#include "coord/service.h"

namespace fermata::coord {

Result<uint64_t> Service::before_end_of(const wire::StepOffer& offer) {
  if (offer.before_end_ms() == 0) return 0;
  const auto impossible = [&](const std::string& why) -> Result<uint64_t> {
    if (offer.before_end_default()) return 0;
    return failure(Code::kUnsupported, "--checkpoint-before-end: " + why);
  };
  if (options_.slurm == nullptr) {
    return impossible("the coordinator has no Slurm to ask (fermata-slurm and slurm.conf)");
  }
  const Result<SlurmJob> job = options_.slurm->job(offer.id().job());
  if (!job) return impossible(job.error().message());
  if (!job->batch) return impossible("Slurm requeues batch jobs only; submit the job by sbatch");
  if (!job->requeue) {
    return impossible("the job was submitted so that Slurm may not requeue it (--no-requeue)");
  }
  return offer.before_end_ms();
}

Status Service::last_set_taken(JobStep step) {
  {
    const std::lock_guard lock(mutex_);
    held_for_end_.insert(step);
  }
  return requeue_if_all_held(step.job);
}

Status Service::requeue_if_all_held(uint64_t number) {
  {
    const std::lock_guard lock(mutex_);
    const auto waits = [&](const auto& one) {
      return one.first.job == number && one.second->ends_early() &&
             !held_for_end_.contains(one.first);
    };
    if (std::any_of(jobs_.begin(), jobs_.end(), waits)) return Status::ok();
  }
  const Result<SlurmJob> job = options_.slurm->job(number);
  if (!job) return job.error();
  // One that has ended would be requeued as well, and begin anew.
  if (!job->running) return Status::ok();
  FERMATA_TRY(options_.slurm->requeue(number));
  log_info(fmt::format("job {} is requeued before its time limit", number));
  return {};
}

}  // namespace fermata::coord
