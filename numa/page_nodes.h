// Which NUMA nodes hold the pages of a range: found by asking for few of them. To ask for each page
// (move_pages(2), 0.5 us) or to have the kernel count them (numa_maps, 0.1 us a page) costs 30 to
// 130 ms a GiB of small pages; to ask for one in 32, at places that no regular pattern meets, 2 to
// 4 ms.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/status.h"
#include "numa/machine.h"

namespace fermata::numa {

struct NodeRun {
  uint64_t start = 0;
  uint64_t length = 0;
  Numbers nodes;       ///< one; several: its pages are mixed, on these
  uint64_t bytes = 0;  ///< in pages present, estimated

  bool operator==(const NodeRun&) const = default;
};

/// Fills `nodes` with the node of each page, negative where none is present. `pages` are addresses.
using AskNodes = std::function<Status(std::span<const uint64_t> pages, std::span<int> nodes)>;

/// What becomes of pages that are absent.
enum class Gaps {
  kJoined,  ///< they belong to the run before them: they will come to lie where their neighbours do
  kLeftOut  ///< no run has them: of shared memory, others may have them elsewhere
};

/// Of a process, through move_pages(2). The caller may trace it or is root.
AskNodes ask_process(pid_t pid);

/// The runs of [start, end), whole pages, ascending. Grain 2 MiB: in a block of that size in which
/// nodes change more than twice the pages are mixed; a change in a block that is not is found to
/// the page. At most one run a block, and `limit` more. Up to
/// 65536 places are looked at; in ranges of more than 8 GiB the grain grows.
Result<std::vector<NodeRun>> runs_of(uint64_t start, uint64_t end, const AskNodes& ask,
                                     Gaps gaps = Gaps::kJoined, size_t limit = 4096);

}  // namespace fermata::numa
