#include "node-agent/pod/outer_groups.h"

#include <fmt/format.h>

#include <sstream>

#include "common/file_util.h"
#include "node-agent/pod/cgroup.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;

/// Where the v1 tree with these controllers ("cpu,cpuacct") is mounted, and from which group on
/// (/proc/self/mountinfo: proc(5)); empty when it is not.
struct Tree {
  std::string mount;
  std::string root;
};

Tree tree_of(const std::string& mountinfo, const std::string& controllers) {
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    const size_t dash = line.find(" - cgroup ");
    if (dash == std::string::npos) continue;
    std::istringstream before(line);
    Tree tree;
    std::string skipped;
    before >> skipped >> skipped >> skipped >> tree.root >> tree.mount;
    const std::string options = "," + line.substr(line.rfind(' ') + 1) + ",";
    if (options.find("," + controllers + ",") != std::string::npos) return tree;
  }
  return {};
}

}  // namespace

Result<std::vector<V1Group>> v1_groups_of(pid_t pid) {
  FERMATA_ASSIGN(const std::string mountinfo, read_file("/proc/self/mountinfo"));
  FERMATA_ASSIGN(const std::string text, read_file(fmt::format("/proc/{}/cgroup", pid)));
  std::vector<V1Group> groups;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos || second == first + 1) continue;  // v2
    V1Group one;
    one.controllers = line.substr(first + 1, second - first - 1);
    const Tree tree = tree_of(mountinfo, one.controllers);
    std::string group = line.substr(second + 1);
    if (tree.mount.empty() || group.starts_with("/..")) continue;
    if (tree.root != "/" && group.starts_with(tree.root)) group.erase(0, tree.root.size());
    one.path = tree.mount + group;
    groups.push_back(std::move(one));
  }
  return groups;
}

Result<std::optional<fs::path>> slurm_v2_group_of(pid_t pid) {
  FERMATA_ASSIGN(const std::string text, read_file(fmt::format("/proc/{}/cgroup", pid)));
  // One line, that of v2, ".../job_7/step_0/user/task_0" (src/plugins/cgroup/v2 of Slurm 22.05).
  if (!text.starts_with("0::") || text.find('\n') + 1 != text.size()) return std::nullopt;
  if (text.find("/job_") == std::string::npos || text.find("/step_") == std::string::npos) {
    return std::nullopt;
  }
  FERMATA_ASSIGN(fs::path group, group_of_process(pid));
  return group;
}

Status suspended() {
  return {Code::kConflict,
          "the job is suspended; a checkpoint can be taken once it runs again (scontrol resume)"};
}

Status check_not_suspended(pid_t init, const fs::path& group) {
  FERMATA_ASSIGN_STATUS(const std::string events, read_file(group / "cgroup.events"));
  if (events.find("frozen 1") != std::string::npos) return suspended();
  FERMATA_ASSIGN_STATUS(const std::vector<V1Group> groups, v1_groups_of(init));
  for (const V1Group& one : groups) {
    if (one.controllers != "freezer") continue;
    const Result<std::string> state = read_file(one.path / "freezer.state");
    // The root of the tree has none.
    if (state && !state->starts_with("THAWED")) return suspended();
  }
  return {};
}

}  // namespace fermata::pod
