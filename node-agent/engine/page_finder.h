// Who says which pages of a stopped process its image needs, and where they are: here, or still as
// they were in the parent. Tracer's thread, but for find() where needs_no_calls() says so.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <span>

#include "common/extents.h"
#include "common/status.h"
#include "node-agent/engine/pages.h"
#include "node-agent/engine/remote.h"

namespace fermata::engine {

/// A private map, which can hold pages of the process's own.
struct OwnMap {
  uint64_t start = 0;
  uint64_t end = 0;
  bool anonymous = false;  ///< of no file
  bool writable = false;
  bool huge_pages = false;  ///< of MAP_HUGETLB: no tracker looks at it
};

inline PageScanner::Backing backing_of(const OwnMap& map) {
  return map.anonymous ? PageScanner::Backing::kAnonymous : PageScanner::Backing::kFile;
}

/// A stopped process.
struct StoppedProcess {
  pid_t pid = 0;
  int vpid = 0;
  /// A thread of it to make calls in.
  std::function<Result<Remote*>()> remote;
};

class PageFinder {
 public:
  PageFinder() = default;
  PageFinder(const PageFinder&) = delete;
  PageFinder& operator=(const PageFinder&) = delete;
  virtual ~PageFinder() = default;

  /// Extents of `maps`, which ascend: kHere, or kParent.
  virtual Result<Extents> find(const StoppedProcess& process, std::span<const OwnMap> maps) = 0;

  /// Whether find() makes no call in the process. It may then be asked on any thread, while other
  /// threads ask it of other processes.
  virtual bool needs_no_calls(const StoppedProcess& /*process*/) const { return false; }

  /// Whether EveryPage may be asked in the place of find(), and so of a copy-on-write twin as well,
  /// once the process runs on. True: find() is not called for it.
  virtual bool can_wait(const StoppedProcess& /*process*/, std::span<const OwnMap> /*maps*/) {
    return false;
  }

  /// Whether the userfaultfd that a map is registered with is of ours.
  virtual bool is_ours(pid_t /*pid*/, uint64_t /*start*/, uint64_t /*end*/) const { return false; }
};

/// All pages that are a process's own are here.
class EveryPage : public PageFinder {
 public:
  Result<Extents> find(const StoppedProcess& process, std::span<const OwnMap> maps) override;
  bool needs_no_calls(const StoppedProcess& /*process*/) const override { return true; }
  bool can_wait(const StoppedProcess& /*process*/, std::span<const OwnMap> /*maps*/) override {
    return true;
  }
};

}  // namespace fermata::engine
