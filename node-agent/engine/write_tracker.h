// Which pages of a process were written since a moment: the kernel's two ways behind one interface.
// What a tracker tells is never too little; where it cannot know, it says so. Nothing of it is seen
// by the program but in /proc/PID/smaps, and that a map made beside a tracked one is a map of its
// own there. A tracker belongs to one process until that executes another program; destroyed, it
// leaves no trace. Any thread, one at a time; start() is the tracer's.
#pragma once

#include <memory>
#include <string_view>

#include "common/extents.h"
#include "common/status.h"
#include "node-agent/engine/page_finder.h"

namespace fermata::engine {

enum class TrackKind {
  kNone,
  kUffd,       ///< userfaultfd, write-protecting asynchronously (Linux 6.7)
  kSoftDirty,  ///< /proc/PID/clear_refs and bit 55 of the page map (CONFIG_MEM_SOFT_DIRTY)
  kHash,       ///< contents are compared: no tracker
};

/// "none", "uffd", "soft-dirty", "hash".
std::string_view track_name(TrackKind kind);
/// Also "auto" and "": the best that this kernel has. kUsage: no such word; kUnsupported: this
/// kernel cannot.
Result<TrackKind> parse_track(std::string_view text);

class WriteTracker {
 public:
  WriteTracker() = default;
  WriteTracker(const WriteTracker&) = delete;
  WriteTracker& operator=(const WriteTracker&) = delete;
  virtual ~WriteTracker() = default;

  /// A tracker of the process of `remote`, which is stopped. Nothing is tracked before rearm().
  /// kind: kUffd or kSoftDirty. `spare_huge_pages`: where kUffd would break huge pages, it does not
  /// track.
  static Result<std::unique_ptr<WriteTracker>> start(TrackKind kind, bool spare_huge_pages,
                                                     Remote& remote);

  struct Written {
    bool all = false;  ///< not tracked throughout: any page may have been
    Extents pages;  ///< also where there is none, if notices_loss(): all that were lost, and more
  };
  /// Pages of the map written since it was armed last. The process may run: then it is a guess.
  virtual Result<Written> written(const OwnMap& map) const = 0;

  /// Pages that are there and were written since the map was armed last. From here on writes to
  /// these are noticed anew, and none falls in between: the process may run. kUnsupported: this way
  /// of tracking cannot.
  virtual Result<Written> take(const OwnMap& map);

  /// Begins with `maps`, of the process while it is stopped: what takes long is left to protect().
  /// A map that grew or was divided just as the kernel is told of it would stay two, and mremap(2)
  /// fail there.
  virtual void cover(std::span<const OwnMap> /*maps*/) {}
  /// Writes to `maps` that cover() had are noticed from here on; others are passed over. The
  /// process may run.
  virtual void protect(std::span<const OwnMap> /*maps*/) {}

  /// From here on writes to all of `maps` are noticed. A map that cannot be tracked is passed over:
  /// written() says `all` of it. The process may run: then what it wrote meanwhile is noticed, too.
  virtual Status rearm(std::span<const OwnMap> maps) = 0;

  /// Whether a page of no file that the program gave back (MADV_DONTNEED, munmap and mremap(2)
  /// grown again) counts as written.
  virtual bool notices_loss() const = 0;
  /// Whether the userfaultfd that the range, of one map, is registered with is this tracker's.
  virtual bool is_ours(uint64_t start, uint64_t end) const = 0;
};

}  // namespace fermata::engine
