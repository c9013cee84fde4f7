#include "node-agent/engine/missing_pages.h"

#include <algorithm>

namespace fermata::engine {

/// The first place of `side` that ends behind `address`.
MissingPages::Side::const_iterator MissingPages::holding(const Side& side, uint64_t address) {
  auto found = side.upper_bound(address);
  if (found != side.begin()) {
    const auto before = std::prev(found);
    if (before->first + before->second.length > address) return before;
  }
  return found;
}

void MissingPages::add(uint64_t now, uint64_t then, uint64_t length) {
  by_now_[now] = {then, length};
  by_then_[then] = {now, length};
}

std::optional<uint64_t> MissingPages::then_of(uint64_t now) const {
  const auto found = holding(by_now_, now);
  if (found == by_now_.end() || found->first > now) return std::nullopt;
  return found->second.other + (now - found->first);
}

std::vector<MissingPages::Part> MissingPages::parts_then(uint64_t from, uint64_t to) const {
  std::vector<Part> parts;
  for (auto at = holding(by_then_, from); at != by_then_.end() && at->first < to; ++at) {
    const uint64_t start = std::max(at->first, from);
    const uint64_t end = std::min(at->first + at->second.length, to);
    parts.push_back({at->second.other + (start - at->first), start, end - start});
  }
  return parts;
}

std::vector<MissingPages::Part> MissingPages::parts_now(uint64_t from, uint64_t to) const {
  std::vector<Part> parts;
  for (auto at = holding(by_now_, from); at != by_now_.end() && at->first < to; ++at) {
    const uint64_t start = std::max(at->first, from);
    const uint64_t end = std::min(at->first + at->second.length, to);
    parts.push_back({start, at->second.other + (start - at->first), end - start});
  }
  return parts;
}

void MissingPages::remove(uint64_t now, uint64_t length) {
  for (const Part& part : parts_now(now, now + length)) {
    const auto whole = std::prev(by_now_.upper_bound(part.now));
    const uint64_t start = whole->first;
    const Place place = whole->second;
    by_now_.erase(whole);
    by_then_.erase(place.other);
    const uint64_t before = part.now - start;
    const uint64_t behind = start + place.length - (part.now + part.length);
    if (before > 0) add(start, place.other, before);
    if (behind > 0) add(part.now + part.length, part.then + part.length, behind);
  }
}

void MissingPages::move(uint64_t from, uint64_t to, uint64_t length) {
  const std::vector<Part> parts = parts_now(from, from + length);
  remove(from, length);
  remove(to, length);
  for (const Part& part : parts) add(part.now - from + to, part.then, part.length);
}

uint64_t MissingPages::bytes() const {
  uint64_t sum = 0;
  for (const auto& [now, place] : by_now_) sum += place.length;
  return sum;
}

}  // namespace fermata::engine
