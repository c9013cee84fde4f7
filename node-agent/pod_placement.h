// Records the placement of a stopped pod: between the engine, which holds threads, and numa/, which
// knows where things belong. On the tracer's thread.
#pragma once

#include "common/status.h"
#include "node-agent/engine/capture.h"
#include "numa/topology.h"
#include "proto/objects.pb.h"
#include "proto/placement.pb.h"

namespace fermata::node_agent {

/// Records affinity, memory policies and pages of a stopped pod. `objects` is what its capture()
/// gave.
Result<image::Placement> record_placement(const numa::Topology& topology, engine::FrozenPod& pod,
                                          const image::PodObjects& objects);

}  // namespace fermata::node_agent
