// The last set of a step before its job's time limit (end_plan.h). On the job's thread.
#include <fmt/format.h>

#include <algorithm>

#include "common/log.h"
#include "coord/job.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

/// Slurm's time as that of the steady clock.
Time steady_of(SlurmJob::Time time) {
  return steady_clock::now() + duration_cast<Duration>(time - system_clock::now());
}

}  // namespace

void Job::plan_end() {
  if (record_.before_end_ms() == 0 || context_.slurm == nullptr) return;
  plan_.emplace(milliseconds(record_.before_end_ms()), milliseconds(record_.longest_set_ms()));
}

void Job::note_duration(Duration took) {
  if (plan_) plan_->measured(took);
  const auto ms = static_cast<uint64_t>(duration_cast<milliseconds>(took).count());
  record_.set_longest_set_ms(std::max(record_.longest_set_ms(), ms));
}

void Job::ask_for_limit() {
  const Result<SlurmJob> job = context_.slurm->job(step_.job, kSlurmPatience);
  std::optional<EndPlan::Limit> limit;
  if (!job) {
    log_warning(fmt::format("job {}: its time limit is not known now: {}", to_string(step_),
                            storage::printable(job.error().message())));
  } else if (job->running && job->end) {
    limit = EndPlan::Limit{steady_of(job->start), steady_of(*job->end)};
  }
  plan_->answered(steady_clock::now(), limit);
  const std::string hopeless = plan_->hopeless();
  if (hopeless.empty()) return;
  const std::lock_guard lock(mutex_);
  if (last_error_ == hopeless) return;
  last_error_ = hopeless;
  log_warning(fmt::format("job {}: {}", to_string(step_), hopeless));
}

void Job::follow_plan(EndPlan::Act act) {
  if (act == EndPlan::Act::kAsk) return ask_for_limit();
  // Slurm names the end of a grace as its limit: what is taken then is not to be gone on from.
  if (winds_up()) return plan_->failed(steady_clock::now());
  Wish wish;
  wish.asked_for = false;
  const TriedSet tried = take_set(wish);
  Status status = tried.outcome.status;
  if (status && act == EndPlan::Act::kLast) {
    // Only now: the job has ended once Slurm was asked.
    save();
    status = context_.last_set_taken(step_);
    if (status) return plan_->done();
    log_warning(fmt::format("job {}: {}", to_string(step_), storage::printable(status.message())));
    const std::lock_guard lock(mutex_);
    last_error_ = status.message();
  }
  if (!status) plan_->failed(steady_clock::now());
}

}  // namespace fermata::coord
