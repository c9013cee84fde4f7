// Threads that each do one long piece of work and are told when to give up. Thread-safe.
#pragma once

#include <functional>
#include <list>
#include <mutex>
#include <stop_token>
#include <thread>

namespace fermata::coord {

class Workers {
 public:
  using Work = std::function<void(const std::stop_token&)>;

  Workers() = default;
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  /// As stop().
  ~Workers();

  /// False: they were stopped.
  bool start(Work work);
  /// Tells all to give up and waits for them.
  void stop();

 private:
  struct Worker {
    std::jthread thread;
    bool done = false;
  };
  std::mutex mutex_;
  std::list<Worker> workers_;
  bool stopped_ = false;
};

}  // namespace fermata::coord
