#include "node-agent/pod/model_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string_view>

#include "common/file_util.h"
#include "node-agent/pod/cgroup.h"
#include "node-agent/pod/outer_groups.h"

namespace fermata::pod {
namespace {

/// cgroup.procs of each v1 group the process is in.
Result<std::vector<UniqueFd>> open_groups_of(pid_t pid) {
  FERMATA_ASSIGN(const std::vector<V1Group> groups, v1_groups_of(pid));
  std::vector<UniqueFd> opened;
  for (const V1Group& group : groups) {
    FERMATA_ASSIGN(UniqueFd fd, open_group_procs(group.path));
    opened.push_back(std::move(fd));
  }
  return opened;
}

/// From /proc/PID/limits: prlimit(2) of another user's process takes CAP_SYS_RESOURCE, which a
/// container may withhold.
Result<std::array<rlimit, RLIM_NLIMITS>> limits_of(pid_t pid) {
  // By number (getrlimit(2)), as the kernel names them there.
  constexpr std::array<std::string_view, RLIM_NLIMITS> kNames{
      "cpu time",       "file size",     "data size",         "stack size",
      "core file size", "resident set",  "processes",         "open files",
      "locked memory",  "address space", "file locks",        "pending signals",
      "msgqueue size",  "nice priority", "realtime priority", "realtime timeout"};
  FERMATA_ASSIGN(const std::string text, read_file(fmt::format("/proc/{}/limits", pid)));
  std::array<rlimit, RLIM_NLIMITS> limits{};
  limits.fill({RLIM_INFINITY, RLIM_INFINITY});
  for (size_t resource = 0; resource < kNames.size(); ++resource) {
    const std::string name = fmt::format("\nMax {} ", kNames.at(resource));
    const size_t at = text.find(name);
    if (at == std::string::npos) return failure(Code::kInternal, "/proc/PID/limits lacks" + name);
    std::istringstream values(text.substr(at + name.size()));
    std::string soft;
    std::string hard;
    values >> soft >> hard;
    const auto value = [](const std::string& word) {
      return word == "unlimited" ? RLIM_INFINITY : std::strtoull(word.c_str(), nullptr, 10);
    };
    limits.at(resource) = {value(soft), value(hard)};
  }
  return limits;
}

}  // namespace

Result<ModelProcess> ModelProcess::of(pid_t pid) {
  ModelProcess model;
  const auto failed = [pid](const char* what) {
    return errno_failure(errno, fmt::format("{} of process {}", what, pid));
  };
  FERMATA_ASSIGN(model.limits_, limits_of(pid));
  model.mounts_.reset(open(fmt::format("/proc/{}/ns/mnt", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (!model.mounts_) return failed("mount namespace");
  FERMATA_ASSIGN(model.groups_, open_groups_of(pid));
  FERMATA_ASSIGN(model.v2_group_, slurm_v2_group_of(pid));
  errno = 0;
  model.niceness_ = getpriority(PRIO_PROCESS, static_cast<id_t>(pid));
  if (errno != 0) return failed("niceness");
  FERMATA_ASSIGN(const std::string status, read_file(fmt::format("/proc/{}/status", pid)));
  const size_t mask = status.find("\nUmask:");
  if (mask != std::string::npos) {
    model.umask_ = static_cast<mode_t>(strtoul(status.c_str() + mask + 7, nullptr, 8));
  }
  FERMATA_ASSIGN(model.oom_score_, read_file(fmt::format("/proc/{}/oom_score_adj", pid)));
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(pid, sizeof set, &set) != 0) return failed("processors");
  for (uint32_t processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (CPU_ISSET(processor, &set)) model.processors_.push_back(processor);
  }
  return model;
}

void ModelProcess::run_also_on(const std::vector<uint32_t>& processors) {
  processors_.insert(processors_.end(), processors.begin(), processors.end());
  std::sort(processors_.begin(), processors_.end());
  processors_.erase(std::unique(processors_.begin(), processors_.end()), processors_.end());
}

const char* ModelProcess::become_like() const {
  for (const UniqueFd& group : groups_) {
    if (write(group.get(), "0", 1) != 1) return "joining a cgroup v1 group";
  }
  // After the groups: joining a cpuset sets it anew.
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const uint32_t processor : processors_) CPU_SET(processor, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) return "sched_setaffinity";
  if (setns(mounts_.get(), CLONE_NEWNS) != 0) return "entering the mount namespace";
  const int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, oom_score_.data(), oom_score_.size()) < 0) return "oom_score_adj";
  close(fd);
  if (setpriority(PRIO_PROCESS, 0, niceness_) != 0) return "setpriority";
  for (size_t resource = 0; resource < limits_.size(); ++resource) {
    // Raw: the C library's may take locks.
    if (syscall(SYS_prlimit64, 0, resource, &limits_[resource], nullptr) == 0) continue;
    // Where root may not raise its own limits, neither could slurmd: ours are as low as they are.
    if (errno != EPERM) return "prlimit";
  }
  return nullptr;
}

}  // namespace fermata::pod
