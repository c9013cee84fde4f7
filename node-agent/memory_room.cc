#include "node-agent/memory_room.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

namespace fermata::node_agent {
namespace {

namespace fs = std::filesystem;

/// The number after "<key>:" in a file of lines "key:  123 kB", in bytes.
std::optional<uint64_t> kilobytes_of(const fs::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ':') continue;
    std::istringstream value(line.substr(key.size() + 1));
    uint64_t kilobytes = 0;
    if (value >> kilobytes) return kilobytes * 1024;
  }
  return std::nullopt;
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
  const char* usage;
  const char* unused;  ///< key in memory.stat: pages of files that were used once
};
constexpr Files kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr Files kVersion2{"memory.max", "memory.current", "inactive_file"};

/// What the limits at `leaf` and its ancestors up to `mount` leave.
uint64_t room_below(const fs::path& mount, const fs::path& leaf, const Files& files) {
  uint64_t room = UINT64_MAX;
  for (fs::path at = leaf; at.string().size() >= mount.string().size(); at = at.parent_path()) {
    const std::optional<uint64_t> limit = number_in(at / files.limit);
    const std::optional<uint64_t> usage = number_in(at / files.usage);
    if (limit && usage) {
      const uint64_t unused = number_after(at / "memory.stat", files.unused).value_or(0);
      const uint64_t used = *usage - std::min(*usage, unused);
      room = std::min(room, *limit > used ? *limit - used : 0);
    }
    if (at == mount) break;
  }
  return room;
}

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

uint64_t room_in_cgroups(const fs::path& process) {
  uint64_t room = UINT64_MAX;
  std::ifstream in(process / "cgroup");  // "4:memory:/path" and "0::/path", cgroups(7)
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
    const fs::path leaf = path == "/" ? *mount : fs::path(mount->string() + path);
    room = std::min(room, room_below(*mount, leaf, version2 ? kVersion2 : kVersion1));
  }
  return room;
}

}  // namespace

uint64_t available_memory() {
  return std::min(kilobytes_of("/proc/meminfo", "MemAvailable").value_or(0),
                  room_in_cgroups("/proc/self"));
}

uint64_t available_memory(pid_t pid) {
  return std::min(kilobytes_of("/proc/meminfo", "MemAvailable").value_or(0),
                  room_in_cgroups(fmt::format("/proc/{}", pid)));
}

uint64_t private_memory(pid_t pid) {
  return kilobytes_of(fmt::format("/proc/{}/status", pid), "RssAnon").value_or(0);
}

MemoryUse memory_use(const fs::path& group) {
  MemoryUse use;
  std::ifstream processes(group / "cgroup.procs");
  for (pid_t pid = 0; processes >> pid;) {
    const fs::path status = fmt::format("/proc/{}/status", pid);
    use.own += kilobytes_of(status, "RssAnon").value_or(0);
    use.shared += kilobytes_of(status, "RssShmem").value_or(0);
    ++use.processes;
  }
  return use;
}

}  // namespace fermata::node_agent
