// The last set of a step of Slurm's that is preempted: Slurm begins the grace time by a SIGTERM,
// which the agents hold back (node-agent/held_terms.h) until the set is there, or is not to be.
// A set of ranks that have their SIGTERM is worse than none: the job would go on from it and wind
// up.
#include <fmt/format.h>

#include "common/log.h"
#include "common/time_parse.h"
#include "coord/job.h"
#include "coord/orders.h"
#include "coord/wire.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

/// Of a job that never had a set nobody knows how long one takes: then it is tried where there is
/// so much time for it.
constexpr seconds kEnoughForTheFirst{10};
/// After one was passed on, others of the same signal come from further nodes.
constexpr seconds kSameSignal{10};
/// slurmctld's clock and ours.
constexpr seconds kClocks{5};
/// For agents to say that they still hold it.
constexpr seconds kToConfirm{5};
/// A job that ends has KillWait for it.
constexpr std::chrono::minutes kMostForTheEnd{5};

Errand errand(const std::string& node, const PodId& pod, milliseconds hold) {
  Errand errand{node, {}};
  *errand.order.mutable_pod() = to_wire(pod);
  errand.order.mutable_pass_term()->set_hold_ms(static_cast<uint64_t>(hold.count()));
  return errand;
}

}  // namespace

std::vector<Errand> Job::term_errands(const std::set<uint32_t>& pods, milliseconds hold) const {
  std::vector<Errand> errands;
  for (const uint32_t pod : pods) {
    errands.push_back(errand(node_of_[pod], {step_, pod, start_}, hold));
  }
  return errands;
}

void Job::say_terms(const std::set<uint32_t>& pods, milliseconds hold) {
  for (Errand& one : term_errands(pods, hold)) {
    // An agent that is gone has passed it on.
    context_.fleet.send(one.node, std::move(one.order), [](const Result<wire::Done>&) {});
  }
}

void Job::term_held(uint32_t pod) {
  milliseconds hold{0};
  bool first = false;
  if (context_.options.preempt_sets && context_.slurm != nullptr) {
    const Time now = steady_clock::now();
    const std::lock_guard lock(mutex_);
    // The agents do not hold any more what they were told to hold until then.
    if (terms_.until && *terms_.until <= now) forget_terms();
    if (!terms_.passed || now - *terms_.passed > kSameSignal) {
      first = terms_.pods.empty();
      if (first) {
        terms_.since = now;
        terms_.until = now + context_.options.term_verdict;
      }
      terms_.pods.insert(pod);
      hold = duration_cast<milliseconds>(*terms_.until - now);
    }
  }
  say_terms({pod}, hold);
  if (!first) return;
  context_.ask_why(step_.job, [job = weak_from_this()](const Result<SlurmJob>& answer) {
    if (const std::shared_ptr<Job> self = job.lock()) self->heard_why(answer);
  });
}

void Job::forget_terms() {
  terms_.pods.clear();
  terms_.until.reset();
  terms_.passed = steady_clock::now();
  terms_.doubt = system_clock::now();
}

void Job::pass_terms() {
  std::set<uint32_t> pods;
  {
    const std::lock_guard lock(mutex_);
    if (terms_.pods.empty()) return;
    pods = terms_.pods;
    forget_terms();
  }
  say_terms(pods, milliseconds::zero());
}

bool Job::term_waits() const {
  const std::lock_guard lock(mutex_);
  return !terms_.pods.empty();
}

bool Job::terms_held() const {
  if (!terms_.until || *terms_.until <= steady_clock::now() || !terms_.grace_began) return false;
  return !terms_.doubt || *terms_.doubt + kClocks < *terms_.grace_began;
}

void Job::note_grace(const SlurmJob& job) {
  terms_.unexplained = false;
  if (!job.running) {
    terms_.no_sets_until = system_clock::now() + kMostForTheEnd;
  } else if (job.preempted && job.end) {
    terms_.no_sets_until = *job.end;
  }
}

bool Job::winds_up() {
  bool unexplained = false;
  {
    const std::lock_guard lock(mutex_);
    unexplained = terms_.unexplained;
  }
  if (unexplained) {
    const Result<SlurmJob> job = context_.slurm->job(step_.job, kSlurmPatience);
    if (!job) return true;
    const std::lock_guard lock(mutex_);
    note_grace(*job);
  }
  const std::lock_guard lock(mutex_);
  return terms_.no_sets_until && system_clock::now() < *terms_.no_sets_until;
}

std::optional<milliseconds> Job::time_for_last_set(const Result<SlurmJob>& job) {
  if (!job) {
    log_warning(fmt::format("job {}: Slurm's SIGTERM is passed on, whatever it is for: {}",
                            to_string(step_), storage::printable(job.error().message())));
    terms_.unexplained = true;
    return std::nullopt;
  }
  note_grace(*job);
  // Slurm's SIGTERM at the end of a grace time comes to a job that does not run any more.
  if (!job->running || !job->preempted || !job->end || terms_.grace == job->end) {
    return std::nullopt;
  }
  terms_.grace = job->end;
  terms_.grace_began = job->preempted;
  if (!terms_held()) {
    log_warning(
        fmt::format("job {}: it is preempted, and a rank may have its SIGTERM already: "
                    "there is no last set",
                    to_string(step_)));
    return std::nullopt;
  }
  const auto half = duration_cast<milliseconds>(*job->end - system_clock::now()) / 2;
  const milliseconds longest(record_.longest_set_ms());
  const milliseconds needed = longest.count() > 0 ? longest + longest / 2 : kEnoughForTheFirst;
  if (needed <= half) return half;
  log_warning(
      fmt::format("job {}: it is preempted, and half of the time that Slurm leaves it, {}, "
                  "is too short for a last set ({})",
                  to_string(step_), format_duration(std::max(half, milliseconds::zero())),
                  format_duration(needed)));
  return std::nullopt;
}

void Job::heard_why(const Result<SlurmJob>& job) {
  std::set<uint32_t> pods;
  std::optional<milliseconds> time;
  {
    const std::lock_guard lock(mutex_);
    time = time_for_last_set(job);
    if (time) {
      terms_.until = steady_clock::now() + *time;
      pods = terms_.pods;
    } else if (job && job->preempted && unasked_) {
      // The set under way would be of ranks that have it.
      give_up_.request_stop();
    }
  }
  if (!time) {
    pass_terms();
    // Another signal may come to one that runs on; else no step of the job waits for this one.
    if (!job || !job->running || job->preempted) context_.term_settled(step_, false);
    return;
  }
  // At once: the job's thread may be in the middle of a set, which is the last one then.
  say_terms(pods, *time);
  ask(
      [this](const Status& status) {
        const bool taken = status && last_set_taken();
        if (!taken) pass_terms();
        context_.term_settled(step_, taken);
      },
      Turn::kNext);
}

bool Job::hold_confirmed() {
  std::set<uint32_t> pods;
  milliseconds left{0};
  {
    const std::lock_guard lock(mutex_);
    if (!terms_held()) return false;
    pods = terms_.pods;
    left = duration_cast<milliseconds>(*terms_.until - steady_clock::now());
  }
  const Errands asked = run_errands(context_.fleet, term_errands(pods, left), kToConfirm,
                                    Until::kFirstFailure, stop_);
  if (asked.all_done()) return true;
  log_warning(fmt::format("job {}: there is no last set, as a rank may have its SIGTERM: {}",
                          to_string(step_), storage::printable(asked.first_failure.message())));
  const std::lock_guard lock(mutex_);
  terms_.doubt = system_clock::now();
  return false;
}

bool Job::last_set_taken() {
  if (!hold_confirmed()) return false;
  Wish wish;
  wish.asked_for = false;
  {
    const std::lock_guard lock(mutex_);
    if (!terms_held()) return false;
    // One that was under way when the signal came.
    if (committed_ && *committed_ >= terms_.since) return true;
    wish.max_wait = duration_cast<milliseconds>(*terms_.until - steady_clock::now());
    if (wish.max_wait <= milliseconds::zero()) return false;
  }
  log_info(fmt::format("job {}: it is preempted, and takes a last set", to_string(step_)));
  const bool taken = take_set(wish).outcome.committed();
  save();
  const std::lock_guard lock(mutex_);
  return taken && terms_held();
}

}  // namespace fermata::coord
