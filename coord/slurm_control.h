// What the coordinator asks of Slurm itself: when a job ends, and to requeue it. A seam: tests
// put their own in its place. May be called from several threads, and waits for slurmctld.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/status.h"

namespace fermata::coord {

struct SlurmJob {
  using Time = std::chrono::system_clock::time_point;
  bool running = false;  ///< not: suspended, completing, gone
  bool batch = false;
  bool requeue = false;  ///< it may be requeued
  Time start{};
  std::optional<Time> end{};  ///< by its time limit; nullopt: it has none
  /// It is in the grace time of a preemption, which began then and is over at `end`.
  std::optional<Time> preempted{};
  bool preemption_requeues = false;  ///< then, as far as Slurm may requeue it
  std::vector<uint32_t> steps{};     ///< that run; of a preempted job
};

/// For slurmctld, where nobody waits for the answer.
inline constexpr std::chrono::seconds kSlurmPatience{30};

class SlurmControl {
 public:
  SlurmControl() = default;
  SlurmControl(const SlurmControl&) = delete;
  SlurmControl& operator=(const SlurmControl&) = delete;
  virtual ~SlurmControl() = default;
  virtual Result<SlurmJob> job(uint64_t number, std::chrono::milliseconds within) = 0;
  /// Whether this cluster preempts jobs at all, as it is configured now.
  virtual Result<bool> preempts(std::chrono::milliseconds within) = 0;
  virtual Status requeue(uint64_t number) = 0;
};

}  // namespace fermata::coord
