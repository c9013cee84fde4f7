// The address under which other nodes know this one. Any thread; may wait for a name server.
#pragma once

#include <string>

#include "common/status.h"
#include "node-agent/engine/inet_address.h"

namespace fermata::node_agent {

/// The address, port 0, that this node has on the way to `host_and_port` ("host:port",
/// "[::1]:6820"); where that leads to this node itself, its first address that is not of loopback;
/// where it has none, that of loopback. kNotFound: nobody knows the host.
Result<engine::InetAddress> own_address_towards(const std::string& host_and_port);

}  // namespace fermata::node_agent
