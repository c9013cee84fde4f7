// Records the placement of a stopped pod: between the engine, which holds threads, and numa/, which
// knows where things belong. On the tracer's thread.
#pragma once

#include <filesystem>

#include "common/status.h"
#include "node-agent/engine/capture.h"
#include "numa/survey.h"
#include "numa/topology.h"
#include "proto/objects.pb.h"
#include "proto/placement.pb.h"

namespace fermata::node_agent {

/// Asks where the pages of a running pod are: shortly before it is stopped. `group` is its cgroup
/// v2 directory.
numa::PageSurvey survey_placement(const std::filesystem::path& group);

/// Records affinity, memory policies and pages of a stopped pod. `objects` is what its capture()
/// gave, `survey` where its pages were shortly before.
Result<image::Placement> record_placement(const numa::Topology& topology, engine::FrozenPod& pod,
                                          const image::PodObjects& objects,
                                          const numa::PageSurvey& survey);

}  // namespace fermata::node_agent
