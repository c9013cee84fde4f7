// The last set of a step of Slurm's that is preempted: Slurm begins the grace time by a SIGTERM,
// which the agents hold back (node-agent/held_terms.h) until the set is there, or is not to be.
#include <fmt/format.h>

#include "common/log.h"
#include "common/time_parse.h"
#include "coord/job.h"
#include "coord/wire.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

/// A busy slurmctld takes its time, and a set that is being taken its own.
constexpr std::chrono::seconds kToAskSlurm{30};
/// Of a job that never had a set nobody knows how long one takes: then it is tried where there is
/// so much time for it.
constexpr std::chrono::seconds kEnoughForTheFirst{10};

void pass(Fleet& fleet, const std::string& node, const PodId& pod, milliseconds hold) {
  wire::Order order;
  *order.mutable_pod() = to_wire(pod);
  order.mutable_pass_term()->set_hold_ms(static_cast<uint64_t>(hold.count()));
  // An agent that is gone has passed it on.
  fleet.send(node, std::move(order), [](const Result<wire::Done>&) {});
}

}  // namespace

void Job::term_held(uint32_t pod) {
  milliseconds hold{0};
  bool first = false;
  const bool asks = context_.options.preempt_sets && context_.slurm != nullptr;
  if (asks) {
    const Time now = steady_clock::now();
    const std::lock_guard lock(mutex_);
    // The agents do not hold any more what they were told to hold until then.
    if (term_hold_ && *term_hold_ <= now) terms_.clear();
    first = terms_.empty();
    if (first) term_hold_ = now + kToAskSlurm;
    terms_.insert(pod);
    hold = duration_cast<milliseconds>(*term_hold_ - now);
  }
  pass(context_.fleet, node_of_[pod], {step_, pod, start_}, hold);
  if (!first) return;
  ask([this](const Status& status) {
    if (status) return judge_term();
    pass_terms();
  });
}

void Job::pass_terms() {
  std::set<uint32_t> pods;
  {
    const std::lock_guard lock(mutex_);
    pods.swap(terms_);
    term_hold_.reset();
  }
  for (const uint32_t pod : pods) {
    pass(context_.fleet, node_of_[pod], {step_, pod, start_}, milliseconds::zero());
  }
}

std::optional<milliseconds> Job::time_for_last_set() {
  const Result<SlurmJob> job = context_.slurm->job(step_.job);
  if (!job) {
    log_warning(fmt::format("job {}: Slurm's SIGTERM is passed on, whatever it is for: {}",
                            to_string(step_), storage::printable(job.error().message())));
    return std::nullopt;
  }
  // Slurm's SIGTERM at the end of a grace time comes to a job that does not run any more.
  if (!job->running || !job->preempted || !job->end || grace_ == job->end) return std::nullopt;
  grace_ = job->end;
  const auto half = duration_cast<milliseconds>(*job->end - system_clock::now()) / 2;
  const milliseconds longest(record().longest_set_ms());
  const milliseconds needed = longest.count() > 0 ? longest + longest / 2 : kEnoughForTheFirst;
  if (needed <= half) return half;
  log_warning(
      fmt::format("job {}: it is preempted, and half of the time that Slurm leaves it, {}, "
                  "is too short for a last set ({})",
                  to_string(step_), format_duration(std::max(half, milliseconds::zero())),
                  format_duration(needed)));
  return std::nullopt;
}

void Job::judge_term() {
  const std::optional<milliseconds> time = time_for_last_set();
  if (!time) return pass_terms();
  std::set<uint32_t> pods;
  {
    const std::lock_guard lock(mutex_);
    pods = terms_;
    term_hold_ = steady_clock::now() + *time;
  }
  for (const uint32_t pod : pods) {
    pass(context_.fleet, node_of_[pod], {step_, pod, start_}, *time);
  }
  log_info(fmt::format("job {}: it is preempted, and takes a last set", to_string(step_)));
  Wish wish;
  wish.asked_for = false;
  wish.max_wait = *time;
  const bool taken = take_set(wish).outcome.committed();
  save();
  context_.term_settled(step_, taken);
}

}  // namespace fermata::coord
