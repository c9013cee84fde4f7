// How much memory there is for a copy of a pod, and how much a pod has. Reads /proc and the cgroup
// files; any thread.
#pragma once

#include <cstdint>
#include <filesystem>

namespace fermata::node_agent {

/// Bytes this process could take without pushing anybody into swap or into a limit: the least of
/// MemAvailable (proc_meminfo(5)) and of what the memory limits of its own cgroups, v1 or v2,
/// leave. 0 when it cannot be told.
uint64_t available_memory();

/// What the processes of a cgroup v2 group have in RAM now.
struct MemoryUse {
  uint64_t own = 0;     ///< anonymous memory
  uint64_t shared = 0;  ///< shared memory; a page counts for each of its users
  uint64_t processes = 0;
};
MemoryUse memory_use(const std::filesystem::path& group);

}  // namespace fermata::node_agent
