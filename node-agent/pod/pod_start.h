// Makes a pod's namespaces and its PID 1 from a caller that may have threads: a go-between joins
// the group and unshares, and its only child is born as a child of the caller (CLONE_PARENT), so
// that the caller can wait for it.
#pragma once

#include <sys/types.h>

#include <array>
#include <filesystem>
#include <optional>
#include <string>

#include "common/credentials.h"
#include "common/status.h"
#include "node-agent/pod/pod.h"
#include "node-agent/pod/podinit_config.h"

namespace fermata::pod {

/// What PID 1 becomes after its namespaces stand.
struct PodinitStart {
  std::string podinit;  ///< path of fermata-podinit
  Credentials user;
  std::string working_directory;
  std::array<int, 3> stdio{0, 1, 2};
  std::vector<int> rank_stdio;  ///< become kFirstRankStream and so on
  PodinitConfig config;
};

struct InitRequest {
  std::filesystem::path group;
  std::string host_name;                ///< empty: the host's
  std::string domain_name;              ///< empty: the host's
  std::optional<PodClocks> clocks;      ///< what the clocks shall read; without: as outside
  const ModelProcess* model = nullptr;  ///< null: none
  const PodinitStart* start = nullptr;  ///< null: PID 1 waits in pause(), root
};

/// Host PID of the new PID 1, a child of the caller's process. On failure no process is left.
Result<pid_t> start_init(const InitRequest& request);

}  // namespace fermata::pod
