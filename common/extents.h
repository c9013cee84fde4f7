// Sets of pages as lists of extents: ascending, not overlapping. What the functions return is so,
// too, and joined where two touch; its extents are kHere. What `where` the given ones have does not
// matter. Plain values; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "common/memory_image.h"

namespace fermata {

using Extents = std::vector<Extent>;

/// In `a`, in `b`, or in both.
Extents united(const Extents& a, const Extents& b);
/// In `a` and in `b`.
Extents common_part(const Extents& a, const Extents& b);
/// In `a` and not in `b`.
Extents without(const Extents& a, const Extents& b);
/// The part of `all` in [start, end); every extent keeps its `where`. Quick where `all` is long and
/// the range has few.
Extents part_of(const Extents& all, uint64_t start, uint64_t end);
/// The extents of `all` that are `where`.
Extents only(const Extents& all, Where where);

uint64_t total_length(const Extents& extents);

/// Adds [address, address + length) at the end, joined with the last one where they touch and are
/// alike.
void append(Extents& extents, uint64_t address, uint64_t length, Where where = Where::kHere);

/// The two, which have no page in common, as one list; every extent keeps its `where`.
Extents merged(const Extents& a, const Extents& b);

}  // namespace fermata
