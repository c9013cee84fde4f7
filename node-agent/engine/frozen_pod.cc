#include "node-agent/engine/frozen_pod.h"

#include <fmt/format.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "common/log.h"
#include "node-agent/engine/cgroup_freezer.h"
#include "node-agent/engine/twin.h"
#include "node-agent/engine/twin_ends.h"

namespace fermata::engine {
namespace {

using Deadline = std::chrono::steady_clock::time_point;

/// Waits, with the pod running, until no process is held in vfork by its child: such a one can be
/// frozen but not stopped. One that is still there at the deadline, or for two seconds, is refused
/// by name.
Status wait_for_vforks(const std::filesystem::path& group, Deadline deadline) {
  const auto patience =
      std::min(deadline, std::chrono::steady_clock::now() + std::chrono::seconds(2));
  while (true) {
    FERMATA_ASSIGN_STATUS(const std::vector<pid_t> pids, group_processes(group));
    const auto waiting = std::find_if(pids.begin(), pids.end(), waits_in_vfork);
    if (waiting == pids.end()) return Status::ok();
    if (std::chrono::steady_clock::now() > patience) {
      FERMATA_ASSIGN_STATUS(const ProcStatus status, read_status(*waiting, *waiting));
      return {Code::kCannotHold,
              fmt::format("process {} ({}) waits in vfork for its child, which neither executes a "
                          "program nor ends: try again when it has",
                          status.vpid, status.name)};
    }
    const timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

bool share_memory(pid_t a, pid_t b) { return ::syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0; }

}  // namespace

Status HeldPod::hold_all(const std::vector<pid_t>& pids, int deadline_ms) {
  // All, also when one does not stop: those that the frozen group interrupted in a call are to
  // notice nothing of it when they are let go, and only held ones can be seen to.
  Status first;
  for (const pid_t pid : pids) {
    HeldProcess& process = held_.emplace_back();
    Status status = hold(pid, deadline_ms, process);
    if (status.code() == Code::kGone) {
      release(process, dead_with(pid));
      held_.pop_back();
      continue;
    }
    if (!status && first) first = std::move(status);
  }
  FERMATA_TRY(first);
  // PID 1 first, then in the order of PIDs in the pod.
  std::sort(held_.begin(), held_.end(),
            [](const HeldProcess& a, const HeldProcess& b) { return a.vpid < b.vpid; });
  FERMATA_TRY(add_zombies());
  list_processes();
  return Status::ok();
}

Status HeldPod::add_zombies() {
  std::map<pid_t, pid_t> parents;
  std::vector<HeldProcess> zombies;
  for (const HeldProcess& process : held_) {
    FERMATA_ASSIGN_STATUS(const std::vector<pid_t> children, children_of(process.pid));
    for (const pid_t child : children) {
      parents[child] = process.pid;
      const Result<ProcStat> stat = ProcStat::read(child);
      if (!stat || stat->state() != 'Z') continue;
      HeldProcess zombie;
      zombie.pid = child;
      zombie.zombie = true;
      FERMATA_ASSIGN_STATUS(const ProcStatus status, read_status(child, child));
      zombie.vpid = status.vpid;
      zombie.name = status.name;
      zombies.push_back(std::move(zombie));
    }
  }
  for (HeldProcess& zombie : zombies) held_.push_back(std::move(zombie));
  for (HeldProcess& process : held_) {
    const auto parent = parents.find(process.pid);
    if (parent != parents.end()) process.parent = parent->second;
  }
  return Status::ok();
}

void HeldPod::list_processes() {
  listed_.clear();
  for (const HeldProcess& process : held_) {
    if (process.zombie) continue;
    FrozenProcess listed{process.vpid, process.pid, {}};
    for (const HeldThread& thread : process.threads) {
      listed.threads.push_back({thread.status.vtid, thread.tid});
    }
    listed_.push_back(std::move(listed));
  }
}

std::string HeldPod::transient_state() const {
  for (const HeldProcess& process : held_) {
    for (const HeldThread& thread : process.threads) {
      if (process.site && process.site->contains(thread.registers.rip)) {
        return fmt::format("{} is in calls that an agent which died had it make",
                           process.describe());
      }
    }
    for (const HeldProcess& other : held_) {
      if (!process.zombie && other.pid == process.parent && share_memory(process.pid, other.pid)) {
        return fmt::format("{} shares its memory with {} (vfork or CLONE_VM)", process.describe(),
                           other.describe());
      }
    }
  }
  return {};
}

void HeldPod::release_all() {
  drop_twins(group_, held_);
  // A vfork's parent stops only when its child runs on: those that have not stopped come last.
  for (HeldProcess& process : held_) {
    if (process.all_stopped()) release(process, dead_with(process.pid));
  }
  for (HeldProcess& process : held_) release(process, dead_with(process.pid));
  held_.clear();
  listed_.clear();
  std::erase(dead_of_init_, init_);  // its end is for its parent
  reap_init(std::exchange(dead_of_init_, {}));
  reap_tracees(std::exchange(dead_, {}));
  if (!suspended_group_.empty()) {
    const Status frozen = write_freeze(suspended_group_, true);
    if (!frozen) log_error(frozen.within("suspending the job again").message());
    suspended_group_.clear();
  }
}

Result<TwinMemory> HeldPod::twins(const image::PodObjects& objects) {
  return make_twins(group_, held_, objects, memory_, unfound_);
}

Status HeldPod::find_pages_here() {
  drop_twins(group_, held_);
  FERMATA_TRY(find_and_add(unfound_, memory_));
  unfound_.clear();
  return Status::ok();
}

Status HeldPod::resume() {
  release_all();
  return Status::ok();
}

Status HeldPod::kill() {
  drop_twins(group_, held_);
  // PID 1 last but at once: the kernel ends all others of its namespace with it
  // (pid_namespaces(7)).
  for (auto process = held_.rbegin(); process != held_.rend(); ++process) {
    if (!process->zombie && ::kill(process->pid, SIGKILL) != 0 && errno != ESRCH) {
      return errno_status(errno, fmt::format("ending {}", process->describe()));
    }
  }
  // A tracee that ended stays until its tracer has waited for it. PID 1's own end is for its
  // parent.
  std::vector<pid_t> tids;
  std::vector<pid_t> tids_of_init;
  for (const HeldProcess& process : held_) {
    for (const HeldThread& thread : process.threads) {
      if (thread.tid == init_) continue;
      (process.pid == init_ ? tids_of_init : tids).push_back(thread.tid);
    }
  }
  reap_init(std::move(tids_of_init));
  reap_tracees(std::move(tids));
  memory_.clear();
  held_.clear();
  listed_.clear();
  return Status::ok();
}

Result<Remote*> HeldPod::remote(int vpid, int vtid) {
  for (HeldProcess& process : held_) {
    if (process.vpid != vpid || process.zombie) continue;
    for (HeldThread& thread : process.threads) {
      if (thread.status.vtid != vtid) continue;
      FERMATA_ASSIGN(CaptureRemote * found, remote_of(process, thread));
      return found;
    }
  }
  return failure(Code::kGone, fmt::format("there is no thread {} in process {}", vtid, vpid));
}

Result<std::unique_ptr<FrozenPod>> FrozenPod::freeze(const std::filesystem::path& group, pid_t init,
                                                     int deadline_ms, bool left_frozen,
                                                     std::span<const pid_t> twins) {
  // Others' may take their time, and whoever names his cannot wait.
  if (twins.empty()) wait_for_twin_ends();
  const auto began = std::chrono::steady_clock::now();
  const auto deadline = began + std::chrono::milliseconds(deadline_ms);
  constexpr std::chrono::seconds kGuardDone(1);
  // An attempt waits this long for one thread: a vfork keeps its parent from stopping for as long.
  constexpr int kThreadStopMs = 500;
  constexpr int kVforkStopMs = 2;
  std::string reason;
  while (true) {
    FERMATA_TRY_RESULT(wait_for_vforks(group, deadline));
    auto pod = std::make_unique<HeldPod>(group, init);
    {
      FERMATA_ASSIGN(CgroupFreezer freezer, CgroupFreezer::freeze(group, deadline_ms));
      FERMATA_ASSIGN(std::vector<pid_t> pids, group_processes(group));
      std::erase_if(pids, [&](pid_t pid) {
        return std::find(twins.begin(), twins.end(), pid) != twins.end();
      });
      if (std::find(pids.begin(), pids.end(), init) == pids.end()) {
        return failure(Code::kGone, "the pod has ended");
      }
      const bool vfork = std::any_of(pids.begin(), pids.end(), waits_in_vfork);
      Status held = pod->hold_all(pids, vfork ? kVforkStopMs : kThreadStopMs);
      if (vfork && held) held = {Code::kTimeout, "a process is in vfork"};
      if (freezer.was_frozen() && !left_frozen) pod->freeze_again_at_release(group);
      FERMATA_TRY_RESULT(freezer.thaw());
      // The guard of an agent that died may have the pod in its hands for some milliseconds.
      const bool guarded =
          held.code() == Code::kPermission && std::chrono::steady_clock::now() < began + kGuardDone;
      if (!held && held.code() != Code::kTimeout && !guarded) return Failure(held);
      reason = held ? std::string() : held.message();
    }
    if (reason.empty()) reason = pod->transient_state();
    if (reason.empty()) return std::unique_ptr<FrozenPod>(std::move(pod));
    pod.reset();
    if (std::chrono::steady_clock::now() > deadline) {
      return failure(Code::kTimeout, fmt::format("the pod could not be stopped within {} ms: {}",
                                                 deadline_ms, reason));
    }
    const timespec pause{0, 3'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace fermata::engine
