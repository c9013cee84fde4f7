// Requests about a running job, answered by the process that holds it or, when that was killed, by
// this one in its place.
#pragma once

#include "cli/command.h"
#include "node-agent/control.h"

namespace fermata::cli {

/// Asks who holds the job. When nobody does and this process may, it claims the job and does the
/// work itself.
Result<node_agent::ControlReply> ask_or_stand_in(const Invocation& invocation,
                                                 const node_agent::JobRecord& record,
                                                 const node_agent::ControlRequest& request);

}  // namespace fermata::cli
