#include "common/extents.h"

#include <algorithm>

namespace fermata {
namespace {

uint64_t end_of(const Extent& extent) { return extent.address + extent.length; }

}  // namespace

void append(Extents& extents, uint64_t address, uint64_t length, Where where) {
  if (length == 0) return;
  if (!extents.empty() && end_of(extents.back()) == address && extents.back().where == where) {
    extents.back().length += length;
  } else {
    extents.push_back({address, length, where});
  }
}

Extents united(const Extents& a, const Extents& b) {
  Extents out;
  size_t i = 0;
  size_t j = 0;
  while (i < a.size() || j < b.size()) {
    const bool from_a = j == b.size() || (i < a.size() && a[i].address <= b[j].address);
    const Extent& next = from_a ? a[i++] : b[j++];
    const uint64_t end = out.empty() ? 0 : end_of(out.back());
    const uint64_t start = std::max(next.address, end);
    if (start < end_of(next)) append(out, start, end_of(next) - start);
  }
  return out;
}

Extents common_part(const Extents& a, const Extents& b) {
  Extents out;
  size_t i = 0;
  size_t j = 0;
  while (i < a.size() && j < b.size()) {
    const uint64_t start = std::max(a[i].address, b[j].address);
    const uint64_t end = std::min(end_of(a[i]), end_of(b[j]));
    if (start < end) append(out, start, end - start);
    if (end_of(a[i]) < end_of(b[j])) {
      ++i;
    } else {
      ++j;
    }
  }
  return out;
}

Extents without(const Extents& a, const Extents& b) {
  Extents out;
  size_t j = 0;
  for (const Extent& extent : a) {
    uint64_t at = extent.address;
    while (j < b.size() && end_of(b[j]) <= at) ++j;
    for (size_t k = j; k < b.size() && b[k].address < end_of(extent); ++k) {
      if (b[k].address > at) append(out, at, b[k].address - at);
      at = std::max(at, end_of(b[k]));
    }
    if (at < end_of(extent)) append(out, at, end_of(extent) - at);
  }
  return out;
}

Extents part_of(const Extents& all, uint64_t start, uint64_t end) {
  Extents out;
  auto at = std::partition_point(all.begin(), all.end(),
                                 [&](const Extent& extent) { return end_of(extent) <= start; });
  for (; at != all.end() && at->address < end; ++at) {
    const uint64_t from = std::max(at->address, start);
    append(out, from, std::min(end_of(*at), end) - from, at->where);
  }
  return out;
}

Extents only(const Extents& all, Where where) {
  Extents out;
  for (const Extent& extent : all) {
    if (extent.where == where) append(out, extent.address, extent.length);
  }
  return out;
}

uint64_t total_length(const Extents& extents) {
  uint64_t sum = 0;
  for (const Extent& extent : extents) sum += extent.length;
  return sum;
}

Extents merged(const Extents& a, const Extents& b) {
  Extents out;
  out.reserve(a.size() + b.size());
  std::merge(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(out),
             [](const Extent& x, const Extent& y) { return x.address < y.address; });
  return out;
}

}  // namespace fermata
