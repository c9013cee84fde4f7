// Keeps what a pod's twins cost within the memory that there is: looks at what is left, stops the
// pod (as a capture does, so that no call of its is ended by it) before that is used up, and lets
// it go when the twins have given enough back. With that a page that is about to be overwritten is
// written out first; not page by page, but for all processes at once, on every kernel, for every
// kind of memory.
//
// A thread of its own, of real-time priority where that is allowed, is the tracer of the pod
// meanwhile. When the agent dies, the kernel or the guard lets the pod go (thaw_guard.h). Functions
// may be called from any thread, but the object is made and ended by the tracer of the twins.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "common/status.h"
#include "node-agent/engine/capture.h"
#include "node-agent/memory_room.h"
#include "node-agent/thaw_guard.h"
#include "node-agent/water_marks.h"

namespace fermata::node_agent {

/// What is left to a pod and its twins. Any thread.
class PodRoom {
 public:
  /// `budget`: no more than so much from now on, for tests.
  PodRoom(const std::filesystem::path& group, std::optional<uint64_t> budget);
  /// Exact where it is less than `enough`.
  uint64_t bytes(uint64_t enough = UINT64_MAX) const;

 private:
  HeadRoom real_;
  std::optional<uint64_t> budget_;
  uint64_t at_first_ = 0;
};

class CopyBound {
 public:
  /// The pod is in `group` with its twins, which are kept until the object's end; `room` outlives
  /// it. `guard`: of the group.
  CopyBound(std::filesystem::path group, pid_t init, const PodRoom& room, ThawGuard guard,
            std::vector<engine::TwinProcess> twins);
  CopyBound(const CopyBound&) = delete;
  CopyBound& operator=(const CopyBound&) = delete;
  /// The pod runs.
  ~CopyBound();

  /// As soon as the pod runs; not earlier: it cannot be held twice. The arguments are
  /// WaterMarks::of()'s.
  Status begin(unsigned writers, uint64_t reserved);
  /// Whether the pod stands still now.
  bool holds() const { return holds_; }
  /// Whether it may have to before long, or does: what frees memory is to be written first.
  bool is_short() const { return short_; }
  /// Lets the pod run on, whatever memory there is; the twins are not needed any more.
  void end();
  /// How long it stood still in all; after end().
  std::chrono::nanoseconds held() const { return held_; }
  /// After end(). Not ok: the pod could not be stopped when it had to be, so its twins were ended,
  /// and what was read of them is not an image.
  const Status& trouble() const { return trouble_; }
  /// Whether a twin was ended by somebody else: the kernel, for want of memory.
  bool lost_a_twin() const;
  /// To be called before end() where the image came to nothing: ends the twins, and returns when
  /// their memory is free, or after some seconds. The pod is watched until then: it takes tens of
  /// milliseconds a GiB, and the kernel's OOM killer passes over a process that is ending.
  void end_twins();

 private:
  void run(WaterMarks marks);
  void hold(bool last_moment);
  void let_go();
  void give_up(const Status& reason);
  void set_twins_nice(int nice) const;

  const std::filesystem::path group_;
  const pid_t init_;
  const PodRoom& room_;
  const std::vector<engine::TwinProcess> twins_;
  ThawGuard guard_;

  // The thread's, and everybody's after end().
  std::unique_ptr<engine::FrozenPod> frozen_;
  std::chrono::steady_clock::time_point since_;
  std::chrono::nanoseconds held_{};
  unsigned holds_made_ = 0;
  unsigned failures_ = 0;
  Status trouble_;

  std::atomic<bool> holds_{false};
  std::atomic<bool> short_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool over_ = false;  ///< guarded by mutex_
  std::thread thread_;
};

}  // namespace fermata::node_agent
