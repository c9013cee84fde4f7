// How a set is taken: the phases, their barriers and deadlines, and what happens when one fails.
// Knows neither processes nor files nor a network: agents do the work, the caller writes the
// manifest. One thread.
#pragma once

#include <array>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "coord/agent.h"

namespace fermata::coord {

/// The clock, as a seam for tests.
class Clock {
 public:
  Clock() = default;
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  virtual ~Clock() = default;
  virtual Time now() const = 0;

  /// The machine's steady clock.
  static const Clock& steady();
};

/// How long each phase may take, by its place in kPhases.
struct Deadlines {
  std::array<Duration, kPhases.size()> of{std::chrono::seconds(30), std::chrono::seconds(10),
                                          std::chrono::minutes(10), std::chrono::seconds(10),
                                          std::chrono::hours(1),    std::chrono::minutes(10)};
  /// Of a roll-back, and of the pods' end after a set that ends the job.
  Duration ending = std::chrono::seconds(10);

  Duration operator[](Phase phase) const { return of[static_cast<size_t>(phase)]; }
  Duration& operator[](Phase phase) { return of[static_cast<size_t>(phase)]; }
};

/// A time for each phase, by its place in kPhases.
using PhaseTimes = std::array<Duration, kPhases.size()>;

/// What became of an attempt.
struct SetOutcome {
  Status status;  ///< ok: the set is committed. Else the reason, naming the node and the phase
  std::vector<AgentReport> reports;  ///< by agent, as the caller gave them
  std::vector<PhaseTimes> took;      ///< by agent: what it says that each phase took it
  PhaseTimes phase_time{};           ///< of the phases that were run, barrier to barrier
  Duration total{};
  Status end_job;  ///< with order.end_job: whether the pods ended after the commit

  bool committed() const { return status.is_ok(); }
  Duration stand_still() const;   ///< of the pod that stood longest
  Duration held() const;          ///< the same of AgentReport::held
  uint64_t memory_bytes() const;  ///< sum over the pods
  uint64_t image_bytes() const;   ///< sum over the pods
};

/// Whether the pods as captured, all cables cut, make up a set. Called once all have been captured.
using JudgeCut = std::function<Status(const SetOutcome& so_far)>;

/// Makes the set committed, given what is known of it so far (reports, times of the phases): writes
/// the manifest, durably. On failure nothing of the manifest may be left.
using WriteManifest = std::function<Status(const SetOutcome& so_far)>;

/// Takes one set. kBusy: all that stands in the way passes by itself. Whatever fails before the
/// manifest is durable, every agent is rolled back.
SetOutcome take_set(const SetOrder& order, std::span<Agent* const> agents,
                    const Deadlines& deadlines, const Clock& clock, const JudgeCut& judge_cut,
                    const WriteManifest& write_manifest);

}  // namespace fermata::coord
