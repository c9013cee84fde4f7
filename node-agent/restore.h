// Brings a pod back from its image: checks it, makes namespaces and a group, rebuilds every process
// in them. On the tracer's thread. On failure nothing is left behind.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"
#include "node-agent/pod/pod.h"
#include "numa/plan.h"

namespace fermata::node_agent {

struct RestoreOrder {
  JobStep job;
  Crid crid;
  std::filesystem::path image;  ///< the file
  std::string digest;           ///< of the manifest
  Credentials owner;            ///< reads the image; what the processes become
  std::array<int, 3> stdio{0, 1, 2};
  numa::Mode numa = numa::Mode::kReplan;
  /// Where the planned placement is kept for `fermata numa report`; empty: nowhere.
  std::filesystem::path placement_file;
  /// Told the bytes of memory that were read just now, from any thread. May be null.
  std::function<void(uint64_t bytes)> on_read;
};

struct RestoredPod {
  pod::Pod pod;
  uint64_t memory_bytes = 0;
  size_t processes = 0;
  std::vector<std::string> notes;  ///< what is not as it was, one sentence each
};

/// Rebuilds the pod. `before_run` is called when it stands and has not run yet: what has to be
/// known of it elsewhere first; if it fails the pod is destroyed.
Result<RestoredPod> restore(const RestoreOrder& order,
                            const std::function<Status(const pod::Pod&)>& before_run);

}  // namespace fermata::node_agent
