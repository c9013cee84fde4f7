// Memory of a rebuilt pod that comes while the pod runs: pages that somebody waits for first, the
// rest as the disk gives it. Private anonymous memory alone: what others share, files, locked
// memory, memory of MAP_HUGETLB and what a fork leaves out is filled before.
//
// The program may fork, move and unmap what has not come (userfaultfd's events), and sees none of
// it. A page that cannot be read is never given as another: `lost` is called, and who waits goes on
// waiting until the pod is ended.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "common/extents.h"
#include "common/memory_image.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/engine/fill_units.h"
#include "node-agent/engine/lazy_space.h"
#include "node-agent/engine/rebuild_remote.h"
#include "proto/process.pb.h"

namespace fermata::engine {

class LazyFill {
 public:
  struct Events {
    /// Once, from a thread of LazyFill: memory is lost, the pod has to be ended.
    std::function<void(const Status&)> lost;
    /// Once, from a thread of LazyFill, when all has come.
    std::function<void()> filled;
    /// All processes of the pod, by host PID. From a thread of LazyFill.
    std::function<std::vector<pid_t>()> processes;
  };

  static Result<std::unique_ptr<LazyFill>> start(Events events);
  LazyFill(const LazyFill&) = delete;
  LazyFill& operator=(const LazyFill&) = delete;
  /// Waits for the rest. Where that was lost, the pod must have ended.
  ~LazyFill();

  /// Takes over what may come later of a process whose maps stand, empty. Returns what is to be
  /// filled now. Tracer's thread.
  Result<Extents> take(RebuildRemote& remote, const image::Process& process,
                       const MemoryRegion& region);
  /// No more take(), and the pod runs. Until then only pages are read that building touches: a loss
  /// ends a pod whose processes nobody traces any more.
  void all_taken();

  /// Waits until all has come. kTimeout: it has not; else what was lost.
  Status finish(std::chrono::milliseconds at_most);
  /// Units that are still to come.
  size_t left();

 private:
  enum class State : uint8_t { kWaiting, kTaken, kDone };

  /// The memory of one process in the image, and the address spaces that want it: the process's and
  /// those of its forks.
  struct Region {
    explicit Region(const MemoryRegion& region);
    FillUnits units;
    std::vector<State> states;       ///< guarded by queue_
    size_t next = 0;                 ///< none before it waits
    std::vector<LazySpace*> spaces;  ///< guarded by moving_
  };
  struct Work {
    Region* region = nullptr;
    size_t unit = 0;
    uint64_t then = 0;
    bool waits = false;  ///< somebody, for the page at `then`
  };
  struct Fault {
    LazySpace* space = nullptr;
    Region* region = nullptr;
    uint64_t address = 0;
  };
  struct Listened {
    std::unique_ptr<LazySpace> space;
    Region* region = nullptr;
  };

  explicit LazyFill(Events events) : events_(std::move(events)) {}
  /// Of this thread alone: the job stands still for it.
  static void step_forward();
  void work(bool urgent);
  bool next_work(Work& work, bool urgent);
  bool next_in_order(Work& work);
  /// Whether any of those that want it lives.
  bool is_wanted(const Region& region);
  Status deliver(const Work& work, const std::byte* bytes);
  Status put(const Region& region, uint64_t then, std::span<const std::byte> bytes);
  void listen();
  Status hear(Listened& listened, std::vector<Fault>& faults);
  Status forked(Listened& parent, UniqueFd descriptor);
  Status serve(std::vector<Fault>& faults);
  void done_with(Region& region, size_t unit);
  void lose(const Status& status);
  void let_go();

  const Events events_;
  UniqueFd wake_;  ///< eventfd: of listen()

  /// Exclusive: while events are read, and what is missing moves. Shared: while pages are put.
  std::shared_mutex moving_;
  std::atomic<bool> hearing_{false};  ///< the listener waits for moving_

  std::mutex queue_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Region>> regions_;
  std::deque<Work> urgent_;
  size_t served_ = 0;  ///< units in work that somebody waits for: the rest waits
  size_t left_ = 0;    ///< units that are not done
  bool closed_ = false;
  bool filled_ = false;
  Status failure_;

  std::list<Listened> listened_;  ///< only grows; guarded by moving_
  std::vector<std::thread> workers_;
  std::thread listener_;
};

}  // namespace fermata::engine
