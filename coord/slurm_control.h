// What the coordinator asks of Slurm itself: a job's time limit, and to requeue it. A seam: tests
// put their own in its place. May be called from several threads, and waits for slurmctld.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "common/status.h"

namespace fermata::coord {

struct SlurmJob {
  using Time = std::chrono::system_clock::time_point;
  bool running = false;  ///< not: suspended, completing, gone
  bool batch = false;
  bool requeue = false;  ///< it may be requeued
  Time start{};
  std::optional<Time> end{};  ///< by its time limit; nullopt: it has none
};

class SlurmControl {
 public:
  SlurmControl() = default;
  SlurmControl(const SlurmControl&) = delete;
  SlurmControl& operator=(const SlurmControl&) = delete;
  virtual ~SlurmControl() = default;
  virtual Result<SlurmJob> job(uint64_t number) = 0;
  virtual Status requeue(uint64_t number) = 0;
};

}  // namespace fermata::coord
