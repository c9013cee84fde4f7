// How much memory there is for a copy of a pod, and how much a pod has. Reads /proc and the cgroup
// files; any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fermata::node_agent {

/// Bytes this process could take without pushing anybody into swap or into a limit: the least of
/// MemAvailable (proc_meminfo(5)) and of what the memory limits of its own cgroups, v1 or v2,
/// leave. 0 when it cannot be told.
uint64_t available_memory();

/// The same of the processes of a cgroup v2 group: how large all they have of their own may be, in
/// the shares of now, for each of their memory control groups, which need not be the same, to have
/// room for it once more. Files that the kernel only keeps for later count as free.
uint64_t available_memory_of(const std::filesystem::path& group);

/// What is left to the processes of a cgroup v2 group, and to those that they make: the least of
/// MemAvailable and of what each of their memory control groups leaves. For who looks often: in
/// which groups they are is looked up once.
class HeadRoom {
 public:
  explicit HeadRoom(const std::filesystem::path& group);
  /// Bytes. Where it is more than `enough`, caches that could be given up may not be counted, which
  /// takes the kernel longer.
  uint64_t bytes(uint64_t enough = UINT64_MAX) const;

 private:
  struct Group {
    std::filesystem::path mount;
    std::filesystem::path path;
    bool version2 = false;
  };
  std::vector<Group> groups_;
};

/// Whether this process has a memory limit in common with one of the group: what we take, it lacks.
bool shares_memory_limit(const std::filesystem::path& group);

/// What the limits of a memory control group and of its ancestors up to `mount` leave; no limit:
/// UINT64_MAX. Half of that in version 2 where memory.oom.group would end all of a group's
/// processes with the one that was to go first. `enough`: as HeadRoom::bytes().
uint64_t limits_leave(const std::filesystem::path& mount, const std::filesystem::path& group,
                      bool version2, uint64_t enough = UINT64_MAX);

/// Whether files in a folder take memory, and nothing else.
bool is_in_memory(const std::filesystem::path& folder);

/// What the processes of a cgroup v2 group have in RAM now.
struct MemoryUse {
  uint64_t own = 0;     ///< anonymous memory
  uint64_t shared = 0;  ///< shared memory, for each of its users, and that of MAP_HUGETLB
  uint64_t processes = 0;
  uint64_t threads = 0;  ///< of processes that have much
};
MemoryUse memory_use(const std::filesystem::path& group);

/// Anonymous memory that a process has in RAM; 0: it has ended.
uint64_t private_memory(pid_t pid);

}  // namespace fermata::node_agent
