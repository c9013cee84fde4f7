#include "node-agent/pod/cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

#include <array>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "node-agent/pod/pod.h"

namespace fermata::pod {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr const char* kOurFolder = "fermata";

struct Mount {
  std::string root;  ///< folder of the tree that is mounted
  fs::path point;
};

/// Undoes the \040 escapes of mountinfo (proc_pid_mountinfo(5)).
std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out.push_back(static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8)));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

/// Every cgroup2 mount is of the same tree; the one that shows most of it (shortest root) is taken.
Result<Mount> find_mount() {
  std::ifstream in("/proc/self/mountinfo");
  Mount best;
  for (std::string line; std::getline(in, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos || !line.substr(dash + 3).starts_with("cgroup2 ")) continue;
    std::istringstream fields(line);
    std::string id;
    std::string parent;
    std::string device;
    std::string root;
    std::string point;
    fields >> id >> parent >> device >> root >> point;
    if (!best.point.empty() && best.root.size() <= root.size()) continue;
    best = {unescape(root), unescape(point)};
  }
  if (best.point.empty()) {
    return failure(Code::kUnsupported,
                   "no cgroup v2 tree is mounted; mount one: mkdir -p /sys/fs/cgroup/unified && "
                   "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified");
  }
  return best;
}

/// Where a group of /proc/PID/cgroup ("/user.slice/x") lies under the mount.
fs::path place_in(const Mount& mount, const std::string& group) {
  std::string below = group;
  if (mount.root != "/" && below.starts_with(mount.root)) below.erase(0, mount.root.size());
  if (below.empty() || below == "/") return mount.point;
  return mount.point / below.substr(1);
}

Result<std::string> v2_line(const fs::path& file) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("0::/")) return line.substr(3);
  }
  return failure(Code::kGone, fmt::format("{}: no cgroup v2 group is named; the process has ended "
                                          "or the kernel has no cgroup v2",
                                          file.native()));
}

/// systemd marks the groups in which it lets others make groups (Delegate=yes). In any other it
/// would tidy ours away with the service or session that made it, and the job shall outlive that.
bool is_delegated(const fs::path& group) {
  for (const char* name : {"trusted.delegate", "user.delegate"}) {
    std::array<char, 4> value{};
    if (getxattr(group.c_str(), name, value.data(), value.size()) == 1 && value[0] == '1') {
      return true;
    }
  }
  return false;
}

bool is_populated(const fs::path& group) {
  std::ifstream in(group / "cgroup.events");
  for (std::string line; std::getline(in, line);) {
    if (line == "populated 1") return true;
  }
  return false;
}

std::vector<pid_t> processes_of(const fs::path& group) {
  std::vector<pid_t> pids;
  std::ifstream in(group / "cgroup.procs");
  for (pid_t pid = 0; in >> pid;) pids.push_back(pid);
  return pids;
}

Status write_text(const fs::path& file, const char* text) {
  const UniqueFd fd(open(file.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return errno_status(errno, file.native());
  if (write(fd.get(), text, strlen(text)) < 0) return errno_status(errno, file.native());
  return Status::ok();
}

void nap() {
  const timespec pause{0, 2'000'000};
  nanosleep(&pause, nullptr);
}

/// The part of the tree in which this process may make groups.
Result<fs::path> our_part() {
  FERMATA_ASSIGN(const Mount mount, find_mount());
  FERMATA_ASSIGN(const std::string ours, v2_line("/proc/self/cgroup"));
  fs::path part = place_in(mount, ours);
  return is_delegated(part) ? part : mount.point;
}

}  // namespace

Result<fs::path> cgroup2_mount() {
  FERMATA_ASSIGN(const Mount mount, find_mount());
  return mount.point;
}

Result<fs::path> make_group(const std::string& name, const std::optional<fs::path>& below) {
  const Result<fs::path> base = below ? Result<fs::path>(*below) : our_part();
  if (!base) return Failure(base.error());
  const fs::path parent = *base / kOurFolder;
  const fs::path group = parent / name;
  // Whoever removes the last pod removes the parent: it may go between our two calls.
  for (int attempt = 0;; ++attempt) {
    if (mkdir(parent.c_str(), 0755) != 0 && errno != EEXIST) {
      return errno_failure(errno, fmt::format("making the group {}", parent.native()));
    }
    if (mkdir(group.c_str(), 0755) == 0) return group;
    if (errno == EEXIST) break;
    if (errno != ENOENT || attempt == 100) {
      return errno_failure(errno, fmt::format("making the group {}", group.native()));
    }
  }
  if (is_populated(group)) {
    return failure(
        Code::kConflict,
        fmt::format("a pod of job {} is running on this node (group {})", name, group.native()));
  }
  return group;
}

Result<fs::path> group_of_process(pid_t pid) {
  FERMATA_ASSIGN(const Mount mount, find_mount());
  FERMATA_ASSIGN(const std::string line, v2_line(fmt::format("/proc/{}/cgroup", pid)));
  return place_in(mount, line);
}

Result<UniqueFd> open_group_procs(const fs::path& group) {
  const fs::path file = group / "cgroup.procs";
  UniqueFd fd(open(file.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return errno_failure(errno, file.native());
  return fd;
}

Status kill_group(const fs::path& group) {
  Status killed = write_text(group / "cgroup.kill", "1");
  if (!killed && access(group.c_str(), F_OK) != 0) return Status::ok();
  return killed;
}

Status remove_group(const fs::path& group, int deadline_ms) {
  const auto deadline = steady_clock::now() + milliseconds(deadline_ms);
  // rmdir says EBUSY while a process, or one of a child group, is in it.
  while (rmdir(group.c_str()) != 0) {
    if (errno == ENOENT) break;
    if (errno != EBUSY) {
      return errno_status(errno, fmt::format("removing the group {}", group.native()));
    }
    if (steady_clock::now() > deadline) {
      const std::vector<pid_t> left = processes_of(group);
      return {Code::kTimeout,
              fmt::format("the group {} cannot be removed: {} processes are still in it{}",
                          group.native(), left.size(),
                          left.empty() ? "" : fmt::format(", one of them {}", left.front()))};
    }
    nap();
  }
  // Other pods keep it: then this fails, as it should.
  if (group.parent_path().filename() == kOurFolder) rmdir(group.parent_path().c_str());
  return Status::ok();
}

}  // namespace fermata::pod
