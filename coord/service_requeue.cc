// Jobs of Slurm that are requeued before their time limit, or a preemption, ends them.
#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>

#include "common/log.h"
#include "coord/service.h"
#include "coord/wire.h"
#include "storage/printable.h"

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
  const Result<SlurmJob> job = options_.slurm->job(offer.id().job(), kSlurmPatience);
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
  const Result<SlurmJob> job = options_.slurm->job(number, kSlurmPatience);
  if (!job) return job.error();
  // One that has ended would be requeued as well, and begin anew.
  if (!job->running) return Status::ok();
  FERMATA_TRY(options_.slurm->requeue(number));
  log_info(fmt::format("job {} is requeued before its time limit", number));
  return {};
}

void Service::term_held(const std::string& node, const wire::TermHeld& held) {
  const PodId id = from_wire(held.id());
  const std::shared_ptr<Job> job = find(id.step);
  if (job && job->has_pod(id, node)) return job->term_held(id.pod);
  wire::Order pass;
  *pass.mutable_pod() = held.id();
  pass.mutable_pass_term();
  fleet_.send(node, std::move(pass), [](const Result<wire::Done>&) {});
}

void Service::term_settled(JobStep step, bool taken) {
  {
    const std::lock_guard lock(mutex_);
    // Of one that has ended nothing is to be remembered: its next start has the same number.
    if (!jobs_.contains(step)) return;
    terms_[step] = taken;
  }
  judge_terms(step.job, Stragglers::kWait);
  if (!taken) return;
  workers_.start([this, number = step.job](const std::stop_token& stop) {
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any never;
    never.wait_for(lock, stop, options_.job.term_verdict, [] { return false; });
    if (!stop.stop_requested()) judge_terms(number, Stragglers::kGiveUp);
  });
}

void Service::judge_terms(uint64_t number, Stragglers stragglers) {
  std::vector<std::shared_ptr<Job>> settled;
  bool all = true;
  bool taken = true;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [step, job] : jobs_) {
      if (step.job != number) continue;
      const auto found = terms_.find(step);
      if (found != terms_.end()) {
        taken = taken && found->second;
        settled.push_back(job);
      } else if (stragglers == Stragglers::kWait || job->term_waits()) {
        all = false;
      } else {
        taken = false;  // it was begun after the signal, or never gets it
      }
    }
    // What comes to those that are not settled is on its way.
    if (settled.empty() || (taken && !all)) return;
    // Whatever becomes of it, the job is requeued once.
    for (const std::shared_ptr<Job>& job : settled) terms_[job->step()] = false;
  }
  if (taken) {
    if (const Status asked = requeue_preempted(number); !asked) {
      log_warning(fmt::format("job {}: {}", number, storage::printable(asked.message())));
    }
  }
  for (const std::shared_ptr<Job>& job : settled) job->pass_terms();
}

Status Service::requeue_preempted(uint64_t number) {
  FERMATA_ASSIGN_STATUS(const SlurmJob job, options_.slurm->job(number, kSlurmPatience));
  if (!job.running || !job.preempted || !job.preemption_requeues) return Status::ok();
  if (!job.batch || !job.requeue) return Status::ok();
  {
    // Steps that are in no pods have the rest of their grace.
    const std::lock_guard lock(mutex_);
    const bool ours = std::all_of(job.steps.begin(), job.steps.end(), [&](uint32_t step) {
      return jobs_.contains({number, step});
    });
    if (!ours) return Status::ok();
  }
  FERMATA_TRY(options_.slurm->requeue(number));
  log_info(fmt::format("job {} is preempted, and requeued with its last set", number));
  return {};
}

}  // namespace fermata::coord
