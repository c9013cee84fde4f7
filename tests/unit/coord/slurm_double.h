// A Slurm with one job. Thread-safe.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "coord/slurm_control.h"

namespace fermata::coord {

class SlurmDouble final : public SlurmControl {
 public:
  static constexpr uint64_t kJob = 70;

  Result<SlurmJob> job(uint64_t number, std::chrono::milliseconds /*within*/) override {
    std::unique_lock lock(mutex_);
    ++asked_;
    changed_.wait(lock, [&] { return !slow_; });
    if (!broken_) return Failure(broken_);
    if (number != kJob) return failure(Code::kNotFound, "Slurm has no such job");
    return job_;
  }
  Result<bool> preempts(std::chrono::milliseconds /*within*/) override {
    const std::lock_guard lock(mutex_);
    return preempts_;
  }
  Status requeue(uint64_t number) override {
    std::function<void()> at_requeue;
    {
      const std::lock_guard lock(mutex_);
      if (!answer_) return answer_;
      requeued_.push_back(number);
      at_requeue = at_requeue_;
    }
    if (at_requeue) at_requeue();
    return {};
  }
  void set(const SlurmJob& job) {
    const std::lock_guard lock(mutex_);
    job_ = job;
  }
  /// What becomes of a request to requeue.
  void answer(const Status& status) {
    const std::lock_guard lock(mutex_);
    answer_ = status;
  }
  /// It does not answer what it is asked of its job until it is not slow any more.
  void set_slow(bool slow) {
    const std::lock_guard lock(mutex_);
    slow_ = slow;
    changed_.notify_all();
  }
  /// What it answers of its job; ok: the job.
  void set_broken(const Status& status) {
    const std::lock_guard lock(mutex_);
    broken_ = status;
  }
  void set_preempts(bool preempts) {
    const std::lock_guard lock(mutex_);
    preempts_ = preempts;
  }
  void set_at_requeue(std::function<void()> what) {
    const std::lock_guard lock(mutex_);
    at_requeue_ = std::move(what);
  }
  /// How often it was asked of a job.
  size_t asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  std::vector<uint64_t> requeued() const {
    const std::lock_guard lock(mutex_);
    return requeued_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  SlurmJob job_;
  Status answer_;
  Status broken_;
  bool slow_ = false;
  bool preempts_ = true;
  size_t asked_ = 0;
  std::function<void()> at_requeue_;
  std::vector<uint64_t> requeued_;
};

}  // namespace fermata::coord
