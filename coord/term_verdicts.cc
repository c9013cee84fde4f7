#include "coord/term_verdicts.h"

#include <algorithm>
#include <utility>

namespace fermata::coord {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// Queries at a time, each a process and some calls of slurmctld.
constexpr size_t kAtATime = 4;
/// Jobs that wait for their turn. When very many end at once slurmctld has enough to do.
constexpr size_t kMostOpen = 64;
/// The other nodes and steps of the job tell of the same SIGTERM.
constexpr std::chrono::seconds kRemembered{5};
/// A site may change its configuration.
constexpr std::chrono::minutes kConfigured{10};

Result<SlurmJob> no_verdict(const char* why) { return failure(Code::kTimeout, why); }

}  // namespace

void TermVerdicts::ask(uint64_t job, const Heard& heard) {
  std::optional<Result<SlurmJob>> at_once;
  bool start = false;
  {
    const std::lock_guard lock(mutex_);
    const auto now = steady_clock::now();
    forget_old(now);
    const auto found = questions_.find(job);
    if (found != questions_.end() && found->second.answer) {
      at_once = found->second.answer;
    } else if (found != questions_.end()) {
      found->second.waiting.push_back(heard);
    } else if (preempts_ == false && now - preempts_heard_ < kConfigured) {
      SlurmJob running;
      running.running = true;
      at_once = running;
    } else if (open_.size() >= kMostOpen) {
      at_once = no_verdict("too many jobs are being ended to ask Slurm about this one");
    } else {
      Question& question = questions_[job];
      question.until = now + within_;
      question.waiting.push_back(heard);
      open_.push_back(job);
      start = working_ < kAtATime;
      if (start) ++working_;
    }
  }
  if (at_once) return heard(*at_once);
  if (!start) return;
  // Not when the coordinator is being stopped: agents pass on what they hold when it is gone.
  [[maybe_unused]] const bool started =
      workers_.start([this](const std::stop_token& /*stop*/) { work(); });
}

void TermVerdicts::forget_old(Time now) {
  std::erase_if(questions_, [&](const auto& one) {
    return one.second.answer && one.second.until + kRemembered < now;
  });
}

void TermVerdicts::work() {
  while (true) {
    uint64_t job = 0;
    Time until;
    {
      const std::lock_guard lock(mutex_);
      if (open_.empty()) {
        --working_;
        return;
      }
      job = open_.front();
      open_.pop_front();
      until = questions_[job].until;
    }
    const Result<SlurmJob> answer = find_out(job, until);
    std::vector<Heard> waiting;
    {
      const std::lock_guard lock(mutex_);
      Question& question = questions_[job];
      question.answer = answer;
      question.until = steady_clock::now();
      waiting.swap(question.waiting);
    }
    for (const Heard& heard : waiting) heard(answer);
  }
}

Result<bool> TermVerdicts::preempts(Time until) {
  {
    const std::lock_guard lock(mutex_);
    if (preempts_ && steady_clock::now() - preempts_heard_ < kConfigured) return *preempts_;
  }
  const auto left = duration_cast<milliseconds>(until - steady_clock::now());
  FERMATA_ASSIGN(const bool preempts, slurm_->preempts(left));
  const std::lock_guard lock(mutex_);
  preempts_ = preempts;
  preempts_heard_ = steady_clock::now();
  return preempts;
}

Result<SlurmJob> TermVerdicts::find_out(uint64_t job, Time until) {
  const auto in_time = [&] { return steady_clock::now() < until; };
  if (!in_time()) return no_verdict("too many jobs are being ended to ask Slurm about this one");
  FERMATA_ASSIGN(const bool cluster_preempts, preempts(until));
  if (!cluster_preempts) {
    SlurmJob running;
    running.running = true;
    return running;
  }
  if (!in_time()) return no_verdict("Slurm is too slow to be asked about it");
  return slurm_->job(job, duration_cast<milliseconds>(until - steady_clock::now()));
}

}  // namespace fermata::coord
