// TCP ports that connections of the past, or somebody else, may have: taken off, waited for, or
// named. Any thread.
#pragma once

#include <functional>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"

namespace fermata::engine {

/// Tries `step` again while it fails with EADDRINUSE or EADDRNOTAVAIL and what has its addresses is
/// about to vanish, for 3 s at most. `remote` null: a port, not a connection. kConflict names who
/// has it.
Status with_patience(const InetAddress& local, const InetAddress* remote,
                     const std::function<Status()>& step);

/// The same for a port that another can stand for: gives up with EADDRINUSE as soon as somebody is
/// seen to have it, and soon otherwise.
Status unless_taken(const InetAddress& local, const std::function<Status()>& step);

}  // namespace fermata::engine
