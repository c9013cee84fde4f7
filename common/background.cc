#include "common/background.h"

#include <system_error>
#include <utility>

namespace fermata {

Background::~Background() {
  if (thread_.joinable()) thread_.join();
}

void Background::add(Task task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    if (works_) return;
    works_ = true;
    // The one before has left its loop: this takes no time.
    if (thread_.joinable()) thread_.join();
    try {
      thread_ = std::thread([this] { work(); });
      return;
    } catch (const std::system_error&) {
    }
  }
  work();
}

void Background::wait() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return !works_; });
}

void Background::wait_for(std::chrono::milliseconds at_most) {
  std::unique_lock lock(mutex_);
  done_.wait_for(lock, at_most, [this] { return !works_; });
}

void Background::work() {
  std::unique_lock lock(mutex_);
  while (!tasks_.empty()) {
    const Task task = std::exchange(tasks_.front(), nullptr);
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
  works_ = false;
  done_.notify_all();
}

}  // namespace fermata
