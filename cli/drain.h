// What `fermata drain` does with the jobs of the nodes it drains. Thread-safe: a job each.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "cli/control_client.h"
#include "common/ids.h"

namespace fermata::cli {

/// A job of the coordinator, or of Slurm alone, that has to leave.
struct Leaving {
  uint64_t job = 0;
  std::vector<JobStep> steps;  ///< in pods; empty: Fermata does not hold it
  std::vector<std::string> nodes;
  bool slurm = false;
};

/// What became of it.
struct Verdict {
  enum class Kind { kRestarted, kRequeued, kKept, kNotHoldable, kEnded };
  Leaving job;
  Kind kind = Kind::kKept;
  uint64_t crid = 0;               ///< committed meanwhile; 0: none
  std::vector<std::string> nodes;  ///< where it runs now
  std::string reason;              ///< where it was not restarted

  /// "restarted", "requeued", "kept", "not holdable", "ended".
  static const char* name_of(Kind kind);
  std::string sentence() const;
};

struct DrainWishes {
  std::set<std::string> drained;
  uint64_t max_wait_ms = 0;  ///< of a job's set; 0: as long as it takes
  bool force = false;
};

/// Moves one job away.
Verdict move_away(ControlClient& client, Leaving job, const DrainWishes& wishes);

}  // namespace fermata::cli
