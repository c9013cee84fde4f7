// Agents without nodes: many streams of the real protocol over a few connections, in a process of
// their own. They attach like any agent and answer every order at once.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace fermata::bench {

/// Name of the node of an agent.
std::string node_name(size_t agent);

/// Attaches `agents` agents over `connections` connections and serves until the coordinator is
/// gone; an exit status.
int simulate_agents(const std::string& coordinator, const std::filesystem::path& munge_socket,
                    size_t agents, size_t connections);

}  // namespace fermata::bench
