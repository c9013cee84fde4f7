#include "cli/job_signals.h"

#include <algorithm>
#include <csignal>
#include <utility>

namespace fermata::cli {

JobSignals::JobSignals(std::function<void(int)> send, std::function<void()> cancel)
    : send_(std::move(send)), cancel_(std::move(cancel)), thread_([this] { serve(); }) {}

JobSignals::~JobSignals() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  cancel_();
  thread_.join();
}

void JobSignals::post(int signo) {
  constexpr size_t kMost = 256;
  const std::lock_guard lock(mutex_);
  const bool there = std::find(waiting_.begin(), waiting_.end(), signo) != waiting_.end();
  const bool standard = signo < SIGRTMIN;
  if (standard ? there : waiting_.size() >= kMost) return;
  waiting_.push_back(signo);
  changed_.notify_all();
}

bool JobSignals::over() const {
  const std::lock_guard lock(mutex_);
  return over_;
}

void JobSignals::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return over_ || !waiting_.empty(); });
    if (over_) return;
    const int signo = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    send_(signo);
    lock.lock();
  }
}

}  // namespace fermata::cli
