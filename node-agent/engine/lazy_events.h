// What a program does to memory of which pages are missing, told by its userfaultfd: put in an
// order and a size that can be gone by. Three things the kernel tells are not as they were done
// (mm/mremap.c, fs/userfaultfd.c):
//
// - After each move (mremap(2)) comes that the place it left is unmapped. Another thread may have
//   moved something there in between, which stays.
// - Before Linux 6.16 a move that also shrinks (MREMAP_FIXED) is told with the old length. What was
//   cut off is told as unmapped, too, before the place that was left.
// - A move that leaves its map where it was (MREMAP_DONTUNMAP) is followed by no such thing. That
//   none is to come shows in that no event is under way.
//
// So a move is known once the event of its place has come, or none is under way; what was told
// after it waits. Plain values; one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>

#include "common/unique_fd.h"

namespace fermata::engine {

class LazyEvents {
 public:
  struct Event {
    enum class Kind { kMove, kUnmap, kRemove, kFork };
    Kind kind = Kind::kRemove;
    uint64_t start = 0;
    uint64_t length = 0;
    uint64_t to = 0;   ///< of a move
    UniqueFd child{};  ///< of a fork
  };

  /// Whether this kernel tells how much a move has moved (Linux 6.16).
  static bool kernel_tells_moved_length();
  explicit LazyEvents(bool tells_moved_length) : tells_moved_length_(tells_moved_length) {}

  /// As the kernel tells it.
  void add(Event event) { queue_.push_back(std::move(event)); }
  /// No event of this address space was under way after the last add().
  void all_told() { told_ = queue_.size(); }
  /// The next, as it was done; nullopt: none, or more has to be told first.
  std::optional<Event> next();
  /// After next() gave none: more has to be told, and until then nobody knows what is where.
  bool waits() const { return !queue_.empty(); }

 private:
  bool settle_move();

  bool tells_moved_length_;
  std::deque<Event> queue_;
  size_t told_ = 0;  ///< so many of the queue are all there is of them
};

}  // namespace fermata::engine
