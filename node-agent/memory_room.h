// How much memory there is for a copy of a pod, and how much a pod has. Reads /proc and the cgroup
// files; any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>

namespace fermata::node_agent {

/// Bytes this process could take without pushing anybody into swap or into a limit: the least of
/// MemAvailable (proc_meminfo(5)) and of what the memory limits of its own cgroups, v1 or v2,
/// leave. 0 when it cannot be told.
uint64_t available_memory();

/// The same of another process: what it, and who shares its limits, could take. Files that the
/// kernel only keeps for later count as free.
uint64_t available_memory(pid_t pid);

/// What the processes of a cgroup v2 group have in RAM now.
struct MemoryUse {
  uint64_t own = 0;     ///< anonymous memory
  uint64_t shared = 0;  ///< shared memory; a page counts for each of its users
  uint64_t processes = 0;
};
MemoryUse memory_use(const std::filesystem::path& group);

/// Anonymous memory that a process has in RAM; 0: it has ended.
uint64_t private_memory(pid_t pid);

}  // namespace fermata::node_agent
