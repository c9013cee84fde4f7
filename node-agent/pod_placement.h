// Between the engine, which holds threads, and numa/, which knows where things belong. On the
// tracer's thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/status.h"
#include "node-agent/engine/capture.h"
#include "numa/plan.h"
#include "numa/topology.h"
#include "proto/objects.pb.h"
#include "proto/placement.pb.h"

namespace fermata::node_agent {

/// Records affinity, memory policies and pages of a stopped pod. `objects` is what its capture()
/// gave.
Result<image::Placement> record_placement(const numa::Topology& topology, engine::FrozenPod& pod,
                                          const image::PodObjects& objects);

/// Makes the calls of a plan that concern the memory of process `vpid`, in its thread behind
/// `remote`. A policy that the machine refuses is told in `notes`; it does not end the restart.
Status apply_range_policies(const std::vector<numa::PlannedCall>& calls, int vpid,
                            engine::Remote& remote, std::vector<std::string>& notes);

/// The same for the policy of one thread, which only the thread itself can set.
Status apply_thread_policy(const std::vector<numa::PlannedCall>& calls, int vpid, int vtid,
                           engine::Remote& remote, std::vector<std::string>& notes);

/// Binds every thread as planned.
void apply_affinity(const numa::Plan& plan, const std::vector<engine::FrozenProcess>& processes,
                    std::vector<std::string>& notes);

}  // namespace fermata::node_agent
