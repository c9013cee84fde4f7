// Watches over a pod while it may be frozen: a small process of ours that lets the pod run on when
// the agent dies (SIGKILL included). What ptrace holds needs no guard: the kernel lets tracees go
// with their tracer. What only the cgroup holds does: freezing ends calls such as epoll_wait(2)
// with EINTR, which no program may see (signal(7)), so the guard stops the pod as a capture does,
// which rewinds those calls, and lets it go.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <utility>

#include "common/status.h"

namespace fermata::node_agent {

class ThawGuard {
 public:
  /// Starts the guard of the cgroup v2 group `group`, for the calling process. Call it before
  /// freezing. `init` is the host PID of the pod's PID 1; without one the group is merely thawed.
  /// `then` is called by the guard when the agent has died and the pod runs: on a copy of this
  /// process's memory, without its descriptors. May be null.
  static Result<ThawGuard> start(const std::filesystem::path& group, pid_t init = -1,
                                 const std::function<void()>& then = nullptr);

  ThawGuard(ThawGuard&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  ThawGuard& operator=(ThawGuard&& other) noexcept;
  ThawGuard(const ThawGuard&) = delete;
  ThawGuard& operator=(const ThawGuard&) = delete;
  /// Ends the guard; the group is left as it is.
  ~ThawGuard();

  pid_t pid() const { return pid_; }

  /// From now on it does nothing. Its end, which takes some processor time, is waited for by the
  /// destructor.
  void dismiss();

 private:
  explicit ThawGuard(pid_t pid) : pid_(pid) {}
  void end();

  pid_t pid_ = -1;
};

/// Lets a group run on that a dead agent left frozen; does nothing to a group that is not frozen.
/// With `init` it leaves that to the agent's guard for a second, and then does as the guard does.
Status thaw_group(const std::filesystem::path& group, pid_t init = -1);

}  // namespace fermata::node_agent
