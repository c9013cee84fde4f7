// One address space whose pages come later (userfaultfd(2), Linux 4.11 for its events): what is
// missing of it, and the calls that put pages there. The descriptor keeps missing pages from being
// read as zeros: it must not be closed before all have come, or nobody runs there any more.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/engine/lazy_events.h"
#include "node-agent/engine/missing_pages.h"
#include "node-agent/engine/rebuild_remote.h"

namespace fermata::engine {

/// What became of pages that were put.
enum class Put {
  kDone,   ///< they are there, or are not wanted any more
  kLater,  ///< an event has to be read first
};

/// Any thread, as LazyFill locks it.
class LazySpace {
 public:
  /// `pid`: of the process, where it is known; else -1.
  LazySpace(UniqueFd descriptor, pid_t pid, MissingPages missing)
      : descriptor_(std::move(descriptor)), pid_(pid), missing_(std::move(missing)) {}

  int descriptor() const { return descriptor_.get(); }
  pid_t pid() const { return pid_; }
  /// While no other thread puts pages.
  MissingPages& missing() { return missing_; }
  /// Where the image has the page at `address`; nullopt: it is not missing.
  std::optional<uint64_t> then_of(uint64_t address) const {
    const std::lock_guard lock(mutex_);
    return missing_.then_of(address);
  }
  /// Its process has ended.
  bool gone() const { return gone_; }
  /// Where its pages are nobody knows before more events have been read: none is put until then.
  bool unclear() const { return unclear_; }
  /// Reads what the program has done, and follows it; `forked` is given the userfaultfd of a child
  /// that has what this one has now. Adds the pages that somebody waits for. While no other thread
  /// puts pages.
  Status hear(std::vector<uint64_t>& faults, const std::function<Status(UniqueFd)>& forked);

  /// Puts what is missing of the image's [from, from + bytes.size()). No events are read meanwhile.
  Result<Put> put(uint64_t from, std::span<const std::byte> bytes);
  /// The page at `address`, which was never in the image.
  Result<Put> put_zeros(uint64_t address);
  /// Has who waits for these pages look again.
  void wake(uint64_t address, uint64_t length) const;

 private:
  int copy_here(uffdio_copy& copy) const;
  Result<Put> put_part(const MissingPages::Part& part, const std::byte* bytes);
  void arrived(uint64_t now, uint64_t length);
  Status follow(const std::function<Status(UniqueFd)>& forked);
  bool event_is_under_way() const;

  UniqueFd descriptor_;
  pid_t pid_;
  mutable std::mutex mutex_;  ///< of missing_, against other threads that put pages
  MissingPages missing_;
  std::atomic<bool> gone_{false};
  LazyEvents events_{LazyEvents::kernel_tells_moved_length()};
  bool unclear_ = false;
};

/// A userfaultfd of the process under construction, which gets its events; what is missing is
/// registered in whole maps: [start, start + length) each.
Result<UniqueFd> open_lazy(RebuildRemote& remote, std::span<const Extent> maps);

}  // namespace fermata::engine
