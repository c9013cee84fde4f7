#include "node-agent/engine/lazy_events.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace fermata::engine {

bool LazyEvents::kernel_tells_moved_length() {
  static const bool tells = [] {
    utsname names{};
    unsigned major = 0;
    unsigned minor = 0;
    if (::uname(&names) != 0 || std::sscanf(names.release, "%u.%u", &major, &minor) != 2) {
      return false;
    }
    return std::pair(major, minor) >= std::pair(6U, 16U);
  }();
  return tells;
}

std::optional<LazyEvents::Event> LazyEvents::next() {
  if (queue_.empty()) return std::nullopt;
  if (queue_.front().kind == Event::Kind::kMove && !settle_move()) return std::nullopt;
  Event event = std::move(queue_.front());
  queue_.pop_front();
  if (told_ > 0) --told_;
  return event;
}

/// The first of the queue is a move: makes it what was done, and takes from behind it what is told
/// of the place it left. False: that has not been told yet.
bool LazyEvents::settle_move() {
  Event& move = queue_.front();
  const auto unmap_of = [](uint64_t start) {
    return
        [start](const Event& one) { return one.kind == Event::Kind::kUnmap && one.start == start; };
  };
  const auto left = std::find_if(queue_.begin() + 1, queue_.end(), unmap_of(move.start));
  if (left == queue_.end() || left->length > move.length) return told_ > 0;
  const uint64_t length = left->length;
  const auto cut_off = std::find_if(queue_.begin() + 1, left, unmap_of(move.start + length));
  if (length < move.length) {
    // Else the map stayed, and a part of it was unmapped since.
    const bool shrank =
        !tells_moved_length_ && cut_off != left && cut_off->length == move.length - length;
    if (!shrank) return true;
    move.length = length;
  }
  if (static_cast<size_t>(left - queue_.begin()) < told_) --told_;
  // It was done before another thread can have moved something there.
  if (cut_off != left) std::rotate(queue_.begin() + 1, cut_off, cut_off + 1);
  queue_.erase(left);
  return true;
}

}  // namespace fermata::engine
