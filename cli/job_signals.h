// Signals that a command hands on to its job, one after the other in a thread of its own: an answer
// may take seconds, and the job's output goes on meanwhile. As the kernel has it, of each standard
// signal one waits, and each of the real-time ones (signal(7)), up to 256.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace fermata::cli {

class JobSignals {
 public:
  /// `send` is called by the thread, for one at a time, until over() is true. `cancel` has a `send`
  /// that is under way end soon; it may be called when none is.
  JobSignals(std::function<void(int signo)> send, std::function<void()> cancel);
  JobSignals(const JobSignals&) = delete;
  JobSignals& operator=(const JobSignals&) = delete;
  /// What waits is not sent any more: the job has ended.
  ~JobSignals();

  void post(int signo);
  /// Whether it is being destroyed: what `send` came to is nobody's concern then.
  bool over() const;

 private:
  void serve();

  const std::function<void(int)> send_;
  const std::function<void()> cancel_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<int> waiting_;
  bool over_ = false;
  std::thread thread_;  ///< the last member: it uses the others
};

}  // namespace fermata::cli
