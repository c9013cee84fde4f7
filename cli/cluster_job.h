// Jobs that a coordinator tends: begun for this command, and followed to their end.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"

namespace fermata::cli {

/// What `run` and `restart` say of a job of a coordinator.
struct ClusterOptions {
  std::string nodes;  ///< "3", or "a,b,c"
  std::string output;
  std::string error;
  std::string external_tcp;
  bool detach = false;

  /// The first option that was given, for those that have no coordinator; empty: none.
  std::string needs() const;
};

struct ClusterRun {
  uint32_t ranks = 1;
  std::vector<std::string> command;
  std::string dir;  ///< of checkpoints, as the option has it
  std::chrono::milliseconds interval{0};
  bool quiet = false;
  std::string track{};
  uint32_t full_every = 0;
  std::string compress{};          ///< empty: as the nodes have it
  std::optional<uint32_t> keep{};  ///< newest sets that stay; unset: as the coordinator has it
};

struct ClusterRestart {
  std::string job;  ///< empty: the newest of the folder
  uint64_t crid = 0;
  std::string dir;
  std::chrono::milliseconds interval{0};
  std::string numa;  ///< replan, keep, ignore
  bool quiet = false;
  std::string track{};             ///< empty: as before
  uint32_t full_every = 0;         ///< 0: as before
  std::string compress{};          ///< empty: as before
  std::optional<uint32_t> keep{};  ///< newest sets that stay; unset: as the coordinator has it
  bool lazy = false;               ///< its pods run before their memory has come
};

/// Exit status of the job, or 0 once it runs with `detach`.
Result<int> run_on_cluster(const Invocation& invocation, const ClusterOptions& options,
                           const ClusterRun& run);
Result<int> restart_on_cluster(const Invocation& invocation, const ClusterOptions& options,
                               const ClusterRestart& restart);

}  // namespace fermata::cli
