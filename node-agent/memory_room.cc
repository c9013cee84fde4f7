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

/// What the limits at `leaf` and its ancestors up to `mount` leave.
uint64_t room_below(const fs::path& mount, const fs::path& leaf, const char* limit_file,
                    const char* usage_file) {
  uint64_t room = UINT64_MAX;
  for (fs::path at = leaf; at.string().size() >= mount.string().size(); at = at.parent_path()) {
    const std::optional<uint64_t> limit = number_in(at / limit_file);
    const std::optional<uint64_t> usage = number_in(at / usage_file);
    if (limit && usage) room = std::min(room, *limit > *usage ? *limit - *usage : 0);
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

uint64_t room_in_cgroups() {
  uint64_t room = UINT64_MAX;
  std::ifstream in("/proc/self/cgroup");  // "4:memory:/path" and "0::/path", cgroups(7)
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
    room = std::min(room, version2 ? room_below(*mount, leaf, "memory.max", "memory.current")
                                   : room_below(*mount, leaf, "memory.limit_in_bytes",
                                                "memory.usage_in_bytes"));
  }
  return room;
}

}  // namespace

uint64_t available_memory() {
  return std::min(kilobytes_of("/proc/meminfo", "MemAvailable").value_or(0), room_in_cgroups());
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
