#include "node-agent/engine/give_back.h"

#include <algorithm>

namespace fermata::engine {
namespace {

// A call that gives back 1 GiB takes 25 to 50 ms, in which its process cannot be frozen.
constexpr uint64_t kMostAtOnce = 64U << 20;

/// What of a run of pages that are not needed may go now: to its ends where a map ends there, else
/// as far as its last whole huge page.
GiveBack::Range whole_part(const Extent& run, const GiveBack::Range& map) {
  const uint64_t end = run.address + run.length;
  return {run.address == map.start ? map.start : (run.address + kHugePage - 1) & ~(kHugePage - 1),
          end == map.end ? end : end & ~(kHugePage - 1)};
}

}  // namespace

GiveBack::GiveBack(const std::vector<Range>& maps, const Extents& needed) {
  for (const Range& map : maps) {
    Part part{map, united(part_of(needed, map.start, map.end), {}), {}, {}};
    left_ += total_length(part.needed);
    const Extents all{{map.start, map.end - map.start}};
    tell(part, without(all, part.needed));
    parts_.push_back(std::move(part));
  }
}

void GiveBack::tell(Part& part, const Extents& done) {
  Extents whole;
  for (const Extent& run : done) {
    const Range range = whole_part(run, part.range);
    if (range.start < range.end) append(whole, range.start, range.end - range.start);
  }
  for (const Extent& extent : without(whole, part.told)) {
    const uint64_t end = extent.address + extent.length;
    for (uint64_t start = extent.address; start < end; start += kMostAtOnce) {
      ready_.push_back({start, std::min(end, start + kMostAtOnce)});
    }
  }
  part.told = united(part.told, whole);
}

void GiveBack::was_read(uint64_t address, uint64_t length) {
  auto part = std::partition_point(parts_.begin(), parts_.end(),
                                   [&](const Part& one) { return one.range.end <= address; });
  for (; part != parts_.end() && part->range.start < address + length; ++part) {
    const Extents& needed = part->needed;
    if (needed.empty()) continue;
    uint64_t start = std::max(address, part->range.start);
    uint64_t end = std::min(address + length, part->range.end);
    left_ -= std::min(left_, end - start);
    // With it goes what is not needed behind it, and before the first.
    if (start == needed.front().address) start = part->range.start;
    const auto next = std::partition_point(needed.begin(), needed.end(), [&](const Extent& extent) {
      return extent.address + extent.length <= end;
    });
    end = next == needed.end() ? part->range.end : std::max(end, next->address);
    part->done = united(part->done, {{start, end - start}});
    tell(*part, part->done);
  }
}

std::vector<GiveBack::Range> GiveBack::take(size_t most) {
  const size_t count = std::min(most, ready_.size());
  const auto first = ready_.end() - static_cast<std::ptrdiff_t>(count);
  std::vector<Range> ranges(first, ready_.end());
  ready_.erase(first, ready_.end());
  return ranges;
}

uint64_t GiveBack::bytes() const {
  uint64_t sum = 0;
  for (const Range& range : ready_) sum += range.end - range.start;
  return sum;
}

}  // namespace fermata::engine
