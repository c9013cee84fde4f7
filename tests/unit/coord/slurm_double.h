// A Slurm with one job. Thread-safe.
#pragma once

#include <mutex>
#include <vector>

#include "coord/slurm_control.h"

namespace fermata::coord {

class SlurmDouble final : public SlurmControl {
 public:
  static constexpr uint64_t kJob = 70;

  Result<SlurmJob> job(uint64_t number) override {
    const std::lock_guard lock(mutex_);
    if (number != kJob) return failure(Code::kNotFound, "Slurm has no such job");
    return job_;
  }
  Status requeue(uint64_t number) override {
    const std::lock_guard lock(mutex_);
    if (!answer_) return answer_;
    requeued_.push_back(number);
    return {};
  }
  void set(const SlurmJob& job) {
    const std::lock_guard lock(mutex_);
    job_ = job;
  }
  void answer(const Status& status) {
    const std::lock_guard lock(mutex_);
    answer_ = status;
  }
  std::vector<uint64_t> requeued() const {
    const std::lock_guard lock(mutex_);
    return requeued_;
  }

 private:
  mutable std::mutex mutex_;
  SlurmJob job_;
  Status answer_;
  std::vector<uint64_t> requeued_;
};

}  // namespace fermata::coord
