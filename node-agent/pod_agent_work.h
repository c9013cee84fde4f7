// The inside of a PodAgent: a set in work. The tracer's thread.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "common/compression.h"
#include "common/first_to_go.h"
#include "common/unique_fd.h"
#include "node-agent/copy_bound.h"
#include "node-agent/engine/capture.h"
#include "node-agent/pod_agent.h"
#include "node-agent/pod_placement.h"
#include "node-agent/thaw_guard.h"
#include "numa/topology.h"
#include "storage/image_writer.h"

namespace fermata::node_agent {

using SteadyClock = std::chrono::steady_clock;

/// What holds the pod, and what came of it. The guard outlives the freeze: it is declared first.
struct PodAgent::Work {
  ImageOrder order;
  Compression compress = Compression::kNone;
  SteadyClock::time_point stopped_at;
  std::optional<FirstToGo> first_to_go;  ///< where what we take is taken from the pod
  std::optional<ThawGuard> guard;
  std::unique_ptr<engine::FrozenPod> frozen;
  numa::PageSurvey pages;  ///< where they were before the stop
  storage::PodImage image;
  std::optional<storage::ImageWriter> writer;
  bool isolated = false;
  std::vector<UniqueFd> outside_sockets;  ///< for the nudges from join() on
  std::optional<PodRoom> room;            ///< what is left to the pod and its twins
  unsigned writers = 1;                   ///< threads of the pod that run at the same time
  uint64_t reserved = 0;                  ///< of `room`, for ourselves
  std::unique_ptr<CopyBound> bound;       ///< the first to go: it holds the pod, too
};

}  // namespace fermata::node_agent
