// Brings a pod back from its image: checks it, makes namespaces and a group, rebuilds every process
// in them. On the tracer's thread. On failure nothing is left behind.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"
#include "node-agent/engine/rebuild.h"
#include "node-agent/lazy_restore.h"
#include "node-agent/pod/pod.h"
#include "numa/plan.h"

namespace fermata::node_agent {

struct RestoreOrder {
  JobStep job;
  Crid crid;
  std::filesystem::path image;      ///< the file
  std::string digest;               ///< of the manifest
  Credentials owner;                ///< reads the image; what the processes become
  std::vector<int> stdio{0, 1, 2};  ///< engine::RebuildRequest::stdio
  numa::Mode numa = numa::Mode::kReplan;
  /// The pod runs when all but its memory is there (RestoredPod::lazy).
  bool lazy = false;
  /// With that: LazyRestore::start. May be null.
  std::function<void()> all_came;
  /// Where the planned placement is kept for `fermata numa report`; empty: nowhere.
  std::filesystem::path placement_file;
  /// Told the bytes of memory that were read just now, from any thread. May be null.
  std::function<void(uint64_t bytes)> on_read;

  // Of a pod of the service; the defaults are those of a pod alone.
  std::optional<JobStep> saved;  ///< the step in the image; unset: `job`
  uint32_t pod = 0;              ///< its number in the step, in the image as here
  std::string node;              ///< named where this machine lacks what the pod needs
  pod::GroupSpec group;
  const pod::ModelProcess* model = nullptr;  ///< may be null; not owned
  /// Called with what the image holds, checked, before anything is made. May be null.
  std::function<Status(const image::PodObjects&)> on_image;
  engine::NetworkRequest network;
  /// Looked at while memory is read, from any thread: true ends the restore (kGone). May be null.
  std::function<bool()> stop;
};

struct RestoredPod {
  pod::Pod pod;
  std::unique_ptr<LazyRestore> lazy;  ///< has its memory come; null: it is there
  uint64_t memory_bytes = 0;
  size_t processes = 0;
  std::vector<std::string> notes;  ///< what is not as it was, one sentence each
};

/// A pod that stands and has not run yet.
struct StandingPod {
  const pod::Pod& pod;
  std::vector<std::string> notes;  ///< what is not as it was, one sentence each
};

/// Rebuilds the pod. `before_run` is called when it stands: what has to be known of it elsewhere
/// first; if it fails the pod is destroyed.
Result<RestoredPod> restore(const RestoreOrder& order,
                            const std::function<Status(const StandingPod&)>& before_run);

}  // namespace fermata::node_agent
