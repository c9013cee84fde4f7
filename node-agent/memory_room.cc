#include "node-agent/memory_room.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <vector>

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;

/// The number after "<key>:" in a file of lines "key:  123 kB".
std::optional<uint64_t> number_of(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ':') continue;
    std::istringstream value(line.substr(key.size() + 1));
    uint64_t number = 0;
    if (value >> number) return number;
  }
  return std::nullopt;
}

/// The same of kilobytes, in bytes.
std::optional<uint64_t> kilobytes_of(const fs::path& file, std::string_view key) {
  const std::optional<uint64_t> kilobytes = number_of(file, key);
  if (!kilobytes) return std::nullopt;
  return *kilobytes * 1024;
}

/// A file that holds one number; "max" (no limit) and a missing file are nullopt.
std::optional<uint64_t> number_in(const fs::path& file) {
  std::ifstream in(file);
  uint64_t number = 0;
  if (in >> number) return number;
  return std::nullopt;
}

/// The number after "<key> " in a file of lines "key 123".
std::optional<uint64_t> number_after(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  std::string word;
  for (uint64_t number = 0; in >> word >> number;) {
    if (word == key) return number;
  }
  return std::nullopt;
}

/// The names of a version of memory control groups.
struct Files {
  const char* limit;
  const char* throttle;  ///< beyond it its processes are slowed down; may be null
  const char* usage;
  const char* unused;  ///< key in memory.stat: pages of files that were used once
};
constexpr Files kVersion1{"memory.limit_in_bytes", nullptr, "memory.usage_in_bytes",
                          "total_inactive_file"};
constexpr Files kVersion2{"memory.max", "memory.high", "memory.current", "inactive_file"};
// A process that has less does not write much in a moment.
constexpr uint64_t kMuch = 8 << 20;
// Version 1 tells a number near this where there is no limit.
constexpr uint64_t kNoLimit = 1ULL << 62;

/// The limit of one group; nullopt: none.
std::optional<uint64_t> limit_at(const fs::path& group, const Files& files) {
  uint64_t limit = number_in(group / files.limit).value_or(kNoLimit);
  if (files.throttle != nullptr) {
    limit = std::min(limit, number_in(group / files.throttle).value_or(kNoLimit));
  }
  if (limit >= kNoLimit) return std::nullopt;
  return limit;
}

/// What the limit of one group leaves.
uint64_t room_at(const fs::path& group, const Files& files, uint64_t enough) {
  const std::optional<uint64_t> limit = limit_at(group, files);
  const std::optional<uint64_t> usage = number_in(group / files.usage);
  if (!limit || !usage) return UINT64_MAX;
  if (*limit > *usage && *limit - *usage > enough) return *limit - *usage;
  const uint64_t unused = number_after(group / "memory.stat", files.unused).value_or(0);
  const uint64_t used = *usage - std::min(*usage, unused);
  return *limit > used ? *limit - used : 0;
}

/// A memory control group and its tree.
struct MemoryGroup {
  fs::path mount;
  fs::path path;
  bool version2 = false;

  const Files& files() const { return version2 ? kVersion2 : kVersion1; }
  /// It and its ancestors.
  std::vector<fs::path> line() const {
    std::vector<fs::path> all;
    for (fs::path at = path; at.string().size() >= mount.string().size(); at = at.parent_path()) {
      all.push_back(at);
      if (at == mount) break;
    }
    return all;
  }
};

/// Mount point of the tree that holds memory limits: v1 with the memory controller, or v2.
std::optional<fs::path> cgroup_mount(bool version2) {
  std::ifstream in("/proc/self/mounts");
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string device;
    std::string mount;
    std::string type;
    std::string options;
    fields >> device >> mount >> type >> options;
    if (version2
            ? type == "cgroup2"
            : type == "cgroup" && ("," + options + ",").find(",memory,") != std::string::npos) {
      return mount;
    }
  }
  return std::nullopt;
}

/// The memory control groups of a process ("self" or a PID), as we see them.
std::vector<MemoryGroup> memory_groups_of(const std::string& process) {
  std::vector<MemoryGroup> groups;
  std::ifstream in("/proc/" + process + "/cgroup");  // "4:memory:/path", "0::/path": cgroups(7)
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool version2 = controllers == ",,";
    if (!version2 && controllers.find(",memory,") == std::string::npos) continue;
    const std::optional<fs::path> mount = cgroup_mount(version2);
    if (!mount) continue;
    const std::string path = line.substr(second + 1);
    groups.push_back({*mount, path == "/" ? *mount : fs::path(mount->string() + path), version2});
  }
  return groups;
}

std::vector<pid_t> processes_of(const fs::path& group) {
  std::vector<pid_t> pids;
  std::ifstream in(group / "cgroup.procs");
  for (pid_t pid = 0; in >> pid;) pids.push_back(pid);
  return pids;
}

/// Groups with a limit that a process is in, below or beside others.
std::set<fs::path> limited_groups_of(const std::string& process) {
  std::set<fs::path> limited;
  for (const MemoryGroup& group : memory_groups_of(process)) {
    for (const fs::path& at : group.line()) {
      if (limit_at(at, group.files())) limited.insert(at);
    }
  }
  return limited;
}

/// Memory of a process that its twin doubles: what it has of its own, and the tables for it.
uint64_t doubled_memory(pid_t pid) {
  const fs::path status = fmt::format("/proc/{}/status", pid);
  return kilobytes_of(status, "RssAnon").value_or(0) + kilobytes_of(status, "VmPTE").value_or(0);
}

}  // namespace

uint64_t limits_leave(const fs::path& mount, const fs::path& group, bool version2,
                      uint64_t enough) {
  const MemoryGroup of{mount, group, version2};
  uint64_t room = UINT64_MAX;
  bool all_go = false;
  for (const fs::path& at : of.line()) {
    room = std::min(room, room_at(at, of.files(), enough == UINT64_MAX ? enough : 2 * enough));
    all_go = all_go || (version2 && number_in(at / "memory.oom.group").value_or(0) == 1);
  }
  return all_go && room != UINT64_MAX ? room / 2 : room;
}

uint64_t available_memory() {
  uint64_t room = kilobytes_of("/proc/meminfo", "MemAvailable").value_or(0);
  for (const MemoryGroup& group : memory_groups_of("self")) {
    room = std::min(room, limits_leave(group.mount, group.path, group.version2));
  }
  return room;
}

uint64_t available_memory_of(const fs::path& group) {
  uint64_t room = kilobytes_of("/proc/meminfo", "MemAvailable").value_or(0);
  struct Use {
    uint64_t room = 0;
    uint64_t doubled = 0;
  };
  // By group with its ancestors: each counts what is below it.
  std::map<fs::path, Use> uses;
  uint64_t all = 0;
  for (const pid_t pid : processes_of(group)) {
    const uint64_t doubled = doubled_memory(pid);
    all += doubled;
    for (const MemoryGroup& of : memory_groups_of(std::to_string(pid))) {
      for (const fs::path& at : of.line()) {
        const auto [use, first] = uses.try_emplace(at);
        if (first) use->second.room = limits_leave(of.mount, at, of.version2);
        use->second.doubled += doubled;
      }
    }
  }
  for (const auto& [at, use] : uses) {
    if (use.room == UINT64_MAX || use.doubled == 0) continue;
    // No more than a machine has: exact enough.
    const double share = static_cast<double>(all) / static_cast<double>(use.doubled);
    room = std::min(room, static_cast<uint64_t>(static_cast<double>(use.room) * share));
  }
  return room;
}

HeadRoom::HeadRoom(const fs::path& group) {
  std::set<fs::path> known;
  for (const pid_t pid : processes_of(group)) {
    for (const MemoryGroup& of : memory_groups_of(std::to_string(pid))) {
      if (known.insert(of.path).second) groups_.push_back({of.mount, of.path, of.version2});
    }
  }
}

uint64_t HeadRoom::bytes(uint64_t enough) const {
  uint64_t room = kilobytes_of("/proc/meminfo", "MemAvailable").value_or(0);
  for (const Group& group : groups_) {
    room = std::min(room, limits_leave(group.mount, group.path, group.version2, enough));
  }
  return room;
}

bool shares_memory_limit(const fs::path& group) {
  const std::set<fs::path> ours = limited_groups_of("self");
  if (ours.empty()) return false;
  const std::vector<pid_t> pids = processes_of(group);
  return std::any_of(pids.begin(), pids.end(), [&](pid_t pid) {
    const std::set<fs::path> theirs = limited_groups_of(std::to_string(pid));
    return std::any_of(theirs.begin(), theirs.end(),
                       [&](const fs::path& one) { return ours.contains(one); });
  });
}

bool is_in_memory(const fs::path& folder) {
  struct statfs room {};
  return ::statfs(folder.c_str(), &room) == 0 &&
         (room.f_type == TMPFS_MAGIC || room.f_type == RAMFS_MAGIC);
}

uint64_t private_memory(pid_t pid) {
  return kilobytes_of(fmt::format("/proc/{}/status", pid), "RssAnon").value_or(0);
}

MemoryUse memory_use(const fs::path& group) {
  MemoryUse use;
  for (const pid_t pid : processes_of(group)) {
    const fs::path status = fmt::format("/proc/{}/status", pid);
    const uint64_t own = kilobytes_of(status, "RssAnon").value_or(0);
    use.own += own;
    use.shared += kilobytes_of(status, "RssShmem").value_or(0) +
                  kilobytes_of(status, "HugetlbPages").value_or(0);
    if (own >= kMuch) use.threads += number_of(status, "Threads").value_or(1);
    ++use.processes;
  }
  return use;
}

}  // namespace fermata::node_agent
