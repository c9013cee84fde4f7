// When a pod that has twins is stopped because memory runs out, and when it may run again. Every
// page that it writes while a twin holds the page becomes two; what is written and given back is
// free again. Arithmetic alone; any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace fermata::node_agent {

class WaterMarks {
 public:
  /// `room`: bytes that are left when the pod gets its twins. `writers`: threads of it that can run
  /// at once. `reserved`: what others are about to take of it. nullopt: so little that it would be
  /// gone before anybody could look.
  static std::optional<WaterMarks> of(uint64_t room, unsigned writers, uint64_t reserved = 0);
  /// Of a pod that has to stand still as long as it has twins.
  static WaterMarks always() { return {kEver, kEver, kEver, 1}; }

  /// Whether the pod is to stand still, with `room` left and as it does now.
  bool holds(uint64_t room, bool held) const { return room < (held ? high_ : low_); }
  /// After how long to look again.
  std::chrono::microseconds next_look(uint64_t room, bool held) const;

  /// What is more is as good as this.
  uint64_t enough() const { return high_ == kEver ? UINT64_MAX : 2 * scarce_; }
  uint64_t scarce() const { return scarce_; }  ///< below it, low is to be expected
  uint64_t low() const { return low_; }        ///< below it the pod is stopped
  uint64_t high() const { return high_; }      ///< from it on it runs again

 private:
  static constexpr uint64_t kEver = UINT64_MAX / 2;
  WaterMarks(uint64_t low, uint64_t high, uint64_t scarce, double rate)
      : low_(low), high_(high), scarce_(scarce), rate_(rate) {}

  uint64_t low_;
  uint64_t high_;
  uint64_t scarce_;
  double rate_;  ///< bytes a second that the pod can take, at most
};

}  // namespace fermata::node_agent
