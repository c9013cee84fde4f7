// Jobs of Slurm whose steps run in pods, moved as a whole: sets of all their steps, and then Slurm
// ends the job, or requeues it so that its steps go on from them. What runs between its set and the
// end of the job is done again. Any thread, with a client of its own.
#pragma once

#include <cstdint>
#include <filesystem>

#include "cli/control_client.h"
#include "common/status.h"

namespace fermata::cli {

struct SlurmMove {
  bool requeue = false;                       ///< else the job is ended
  uint64_t max_wait_ms = 0;                   ///< of each set; 0: as long as it takes
  bool if_idle = false;                       ///< refused while a set is being taken
  std::filesystem::path checkpoint_dir = {};  ///< of these sets; empty: each step's own
  bool force = false;  ///< also without a set of every step; and ended if it cannot be requeued
};

struct SlurmMoved {
  Status status;          ///< ok: as was wished. Else why it runs on, or was ended all the same
  uint64_t crid = 0;      ///< the newest that was committed meanwhile; 0: none
  bool ended = false;     ///< by force
  uint64_t restarts = 0;  ///< of the job, before
};

/// kCannotHold names the object; kUnsupported: a step runs without Fermata, or Slurm would not
/// requeue the job (sets are taken all the same). Nothing ends unless every running step has a set.
SlurmMoved move_slurm_job(ControlClient& client, uint64_t job, const SlurmMove& move);

}  // namespace fermata::cli
