// Something to be done at a moment, unless the moment's owner has gone before. Used on one thread;
// the deed is done on another.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace fermata::coord {

class Alarm {
 public:
  /// Calls `ring` after `wait`; 0: never.
  Alarm(std::chrono::milliseconds wait, std::function<void()> ring) {
    if (wait.count() <= 0) return;
    thread_ = std::jthread([this, wait, ring = std::move(ring)](const std::stop_token& stop) {
      std::unique_lock lock(mutex_);
      // A stop is all that can wake it early.
      if (changed_.wait_for(lock, stop, wait, [] { return false; }) || stop.stop_requested()) {
        return;
      }
      rang_ = true;
      ring();
    });
  }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;
  ~Alarm() = default;

  bool rang() const {
    const std::lock_guard lock(mutex_);
    return rang_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  bool rang_ = false;
  std::jthread thread_;  // ends before the others go
};

}  // namespace fermata::coord
