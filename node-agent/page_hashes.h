// A number for the content of each page of a region: who has those of the parent knows which pages
// differ from it, without the parent's bytes. Plain values; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/extents.h"
#include "common/status.h"

namespace fermata::node_agent {

/// Of a page that is all zeros. No other page has it.
inline constexpr uint64_t kHashOfZeros = 0;

struct PageHashes {
  Extents pages;                 ///< in ascending order
  std::vector<uint64_t> hashes;  ///< one for each page of `pages`

  bool empty() const { return hashes.empty(); }
};

/// Reads what is here of `region`, with `threads` threads. XXH3-64. `waited_for`: asked for each
/// piece, from the threads; while it is false they run after the job's own work. Null: always true.
Result<PageHashes> hash_pages(const MemoryRegion& region, unsigned threads,
                              const std::function<bool()>& waited_for = nullptr);

/// Those of `now` that are in `then` with the same number.
Extents unchanged_pages(const PageHashes& now, const PageHashes& then);
/// Those that are all zeros.
Extents zero_pages(const PageHashes& now);

/// `older` with the pages of `newer` in place of its own, for the pages of `wanted`.
PageHashes combined(const PageHashes& older, const PageHashes& newer, const Extents& wanted);

}  // namespace fermata::node_agent
