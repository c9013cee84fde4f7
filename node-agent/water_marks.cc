#include "node-agent/water_marks.h"

#include <algorithm>

namespace fermata::node_agent {
namespace {

using std::chrono::microseconds;

// What a thread takes that writes to one page after the other, all of them its twin's as well: a
// fault, a fresh page and its copy (0.3 to 1.2 GB/s on 2 cores of an AMD EPYC VM, Linux 6.18,
// 2026-11-21); and a machine's memory.
constexpr double kOneWriter = 1.5e9;
constexpr double kAllWriters = 24e9;
// The pod is stopped when it could take the rest in this time: it has to be noticed, each thread
// has to leave what it does, and a loaded machine takes its time.
constexpr double kWanted = 0.025;
constexpr uint64_t kWantedLeast = 32 << 20;
// Where there is not so much, this has to be.
constexpr double kNeeded = 0.010;
constexpr uint64_t kNeededLeast = 16 << 20;

constexpr microseconds kSoonest{500};
constexpr microseconds kLatest{10'000};
constexpr microseconds kWhileHeld{1000};

uint64_t bytes_in(double rate, double seconds) { return static_cast<uint64_t>(rate * seconds); }

}  // namespace

std::optional<WaterMarks> WaterMarks::of(uint64_t room, unsigned writers, uint64_t reserved) {
  room -= std::min(room, reserved);
  const double rate = std::min(kOneWriter * std::max(writers, 1U), kAllWriters);
  const uint64_t wanted = std::max(bytes_in(rate, kWanted), kWantedLeast);
  // Rather too soon: a twin that the kernel ends costs an attempt, and while it is ending Linux
  // 6.18 was seen to choose another process, too.
  const uint64_t low = std::min(wanted, room / 3 * 2);
  if (low < std::max(bytes_in(rate, kNeeded), kNeededLeast)) return std::nullopt;
  // Not too near: each stop costs some milliseconds.
  const uint64_t high = low + std::min(wanted, (room - low) / 2);
  const uint64_t scarce = high + (room - high) / 2;
  return WaterMarks(reserved + low, reserved + high, reserved + scarce, rate);
}

microseconds WaterMarks::next_look(uint64_t room, bool held) const {
  if (held) return kWhileHeld;
  const uint64_t left = room - std::min(room, low_);
  // In half the time in which it could be gone.
  const microseconds half(static_cast<int64_t>(static_cast<double>(left) / rate_ / 2 * 1e6));
  return std::clamp(half, kSoonest, kLatest);
}

}  // namespace fermata::node_agent
