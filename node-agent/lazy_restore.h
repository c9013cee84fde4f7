// A pod that runs before its memory has come (engine/lazy_fill.h), and what may go wrong with that:
// the image can get lost midway, this process can die. Either way the pod is ended, as it would go
// on with zeros in the place of its memory. Made and destroyed on the tracer's thread; the rest
// from any.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/engine/lazy_fill.h"
#include "node-agent/engine/rebuild.h"
#include "node-agent/huge_pages.h"

namespace fermata::node_agent {

/// As long after its agent a guard goes on waiting for the end of the pod, and holds what the agent
/// held.
inline constexpr std::chrono::seconds kGuardPatience{30};

class LazyRestore {
 public:
  /// `init_pidfd`: of the pod's PID 1, with which the pod ends. `group`: where its processes are.
  /// `set_locks`: given back when all has come. `all_came`: called then, before anything else, from
  /// another thread: what says that this pod must not outlive its agent goes before the guard. May
  /// be null.
  static Result<std::unique_ptr<LazyRestore>> start(int init_pidfd,
                                                    const std::filesystem::path& group,
                                                    std::vector<UniqueFd> set_locks,
                                                    std::function<void()> all_came);
  LazyRestore(const LazyRestore&) = delete;
  LazyRestore& operator=(const LazyRestore&) = delete;
  /// Waits until all has come, or the pod has ended.
  ~LazyRestore();

  engine::LazyFill* fill() { return fill_.get(); }

  /// When the pod stands, before it runs: from here on its memory comes whatever happens, or it is
  /// ended. `settle`: called when all has come, the last and from another thread: it may take long.
  /// May be null.
  Status let_run(const image::PodObjects& objects, const std::vector<MemoryRegion>& memory,
                 const std::vector<engine::FrozenProcess>& processes, std::function<void()> settle);

  /// The pod runs: the rest is read.
  void runs() { fill_->all_taken(); }

  /// Waits until all has come: what tracks writes or makes an image must not begin before.
  /// kTimeout, or what was lost.
  Status finish(std::chrono::milliseconds at_most);
  /// Waits until all has come, or is lost. `comes`: called after each `period` in which some did.
  void wait_while_it_comes(std::chrono::milliseconds period, const std::function<void()>& comes);
  /// Why the pod was ended; ok: it was not.
  Status loss() const;

 private:
  LazyRestore() = default;
  void lost(const Status& status);
  void end_pod() const;
  void dismiss_guard();

  UniqueFd init_;
  UniqueFd self_;                    ///< pidfd, for the guard
  std::vector<UniqueFd> set_locks_;  ///< the listener's once it runs
  mutable std::mutex mutex_;
  Status loss_;  ///< guarded by mutex_
  std::function<void()> settle_;
  HugePages huge_pages_;
  pid_t guard_ = -1;                        ///< once it runs: the thread's that ends it
  std::unique_ptr<engine::LazyFill> fill_;  ///< the last: its threads use the others
};

}  // namespace fermata::node_agent
