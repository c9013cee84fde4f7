// When the next set of a job is due. Plain values.
#pragma once

#include <chrono>
#include <optional>

namespace fermata::coord {

class Schedule {
 public:
  using Clock = std::chrono::steady_clock;

  /// 0: never.
  explicit Schedule(std::chrono::milliseconds interval)
      : interval_(interval), due_(Clock::now() + interval) {}

  std::optional<Clock::time_point> next() const {
    return interval_.count() == 0 ? std::nullopt : std::optional(due_);
  }
  bool due() const { return interval_.count() != 0 && Clock::now() >= due_; }
  /// After a set: what was missed meanwhile falls out.
  void advance() {
    const auto now = Clock::now();
    if (now >= due_) due_ += interval_ * ((now - due_) / interval_ + 1);
  }

 private:
  std::chrono::milliseconds interval_;
  Clock::time_point due_;
};

}  // namespace fermata::coord
