// What Slurm's SIGTERM of a job is for, found out beside the jobs' threads: once for a job, whose
// steps and nodes tell of it one by one, a few jobs at a time, and not at all in a cluster that
// preempts nobody. Thread-safe; nothing here waits but its workers.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "coord/slurm_control.h"
#include "coord/workers.h"

namespace fermata::coord {

class TermVerdicts {
 public:
  /// Slurm's answer, or why there is none. Called without a lock, on the thread of ask() or on a
  /// worker's; maybe later than `within`, where Slurm is slow.
  using Heard = std::function<void(const Result<SlurmJob>&)>;

  /// Neither is owned. `slurm` may be null: then nobody asks.
  TermVerdicts(SlurmControl* slurm, Workers& workers, std::chrono::milliseconds within)
      : slurm_(slurm), workers_(workers), within_(within) {}
  TermVerdicts(const TermVerdicts&) = delete;
  TermVerdicts& operator=(const TermVerdicts&) = delete;

  void ask(uint64_t job, const Heard& heard);

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Question {
    Time until;
    std::vector<Heard> waiting;
    std::optional<Result<SlurmJob>> answer;
  };

  void work();
  Result<SlurmJob> find_out(uint64_t job, Time until);
  /// Whether the cluster preempts: as it was last heard; kTimeout: not in time.
  Result<bool> preempts(Time until);
  void forget_old(Time now);

  SlurmControl* const slurm_;
  Workers& workers_;
  const std::chrono::milliseconds within_;
  std::mutex mutex_;
  std::map<uint64_t, Question> questions_;
  std::deque<uint64_t> open_;
  size_t working_ = 0;
  std::optional<bool> preempts_;
  Time preempts_heard_{};
};

}  // namespace fermata::coord
