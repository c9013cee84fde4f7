// Starts the pods of a step on their nodes, and ends them. Any thread.
#pragma once

#include <stop_token>

#include "coord/fleet.h"
#include "coord/set_protocol.h"
#include "proto/control.pb.h"
#include "proto/store.pb.h"

namespace fermata::coord {

/// What every pod has to know of the whole step.
wire::StepShape shape_of(const stored::Job& record);
wire::Streams streams_of(const stored::Job& record);

/// kGone, kTimeout, ...: naming node and reason; what is left of it is the caller's to destroy().
Status launch(Fleet& fleet, const stored::Job& record, const wire::RunRequest& request,
              Duration timeout, const std::stop_token& give_up);

/// Ends every pod of this start, in whatever state it is. Those that cannot be reached now are
/// ended when their agents come back.
void destroy(Fleet& fleet, const stored::Job& record);
/// Ends a pod that belongs to no living start; nobody waits for it. Does not block.
void destroy_untended(Fleet& fleet, const std::string& node, const PodId& pod);

}  // namespace fermata::coord
