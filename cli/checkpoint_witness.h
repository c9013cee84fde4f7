// What became of a checkpoint whose coordinator was lost while it took it: the manifest in the
// checkpoint folder tells, whoever is gone. One thread.
#pragma once

#include <filesystem>
#include <optional>

#include "cli/checkpoint_verdict.h"
#include "cli/control_client.h"
#include "common/ids.h"
#include "node-agent/control.h"

namespace fermata::cli {

class CheckpointWitness {
 public:
  /// Before the checkpoint is asked for. `client` is not owned and outlives this.
  CheckpointWitness(ControlClient& client, JobStep job, bool end_job);

  /// After it was answered with kGone (`lost`): waits some seconds for the coordinator to be back,
  /// and to be done with the job. The reply of a committed checkpoint, or kGone with what is known
  /// and where to look.
  node_agent::ControlReply find_out(const Status& lost);

 private:
  /// As this user can see it; nothing: it cannot be seen.
  std::optional<NewestSet> newest() const;
  bool wait_for_coordinator();

  ControlClient& client_;
  JobStep job_;
  bool end_job_;
  std::filesystem::path dir_;  ///< empty: the coordinator did not tell
  std::optional<NewestSet> before_;
};

}  // namespace fermata::cli
