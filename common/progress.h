// Progress of long work on bytes, for people: one line that renews itself on a terminal, and
// elsewhere a line every ten seconds. advance() from any thread; the rest from the one that made
// it.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace fermata {

class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  /// `what` begins the line: "writing pod-0.h5". `total` bytes, 0: not known. `fd` is not owned.
  Progress(std::string what, uint64_t total, int fd);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Clears an unfinished line, so that a message can follow.
  ~Progress();

  void advance(uint64_t bytes);
  /// Ends with "writing pod-0.h5: 1.5 GiB in 0.8s, 1.9 GiB/s". After it nothing more is written.
  void finish();

 private:
  void show(Clock::time_point now);
  std::string rate(Clock::time_point now) const;

  const std::string what_;
  const uint64_t total_;
  const int fd_;
  const bool terminal_;
  const Clock::time_point start_ = Clock::now();
  std::mutex mutex_;
  uint64_t done_ = 0;
  Clock::time_point shown_ = start_;
  bool line_open_ = false;
  bool finished_ = false;
};

}  // namespace fermata
