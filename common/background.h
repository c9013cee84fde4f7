// Work that nobody waits for at once: done in order by a thread that is there as long as there is
// some. Any thread calls; the destructor waits for all of it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace fermata {

class Background {
 public:
  using Task = std::function<void()>;

  Background() = default;
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;
  ~Background();

  /// Has `task` done. Where no thread is to be had it is done before this returns.
  void add(Task task);
  /// Returns when all tasks added so far, and those added meanwhile, are done. Not from a task.
  void wait();
  /// As wait(), but not longer than that.
  void wait_for(std::chrono::milliseconds at_most);

 private:
  void work();

  std::mutex mutex_;  ///< of all below
  std::condition_variable done_;
  std::deque<Task> tasks_;
  bool works_ = false;
  std::thread thread_;
};

}  // namespace fermata
