// Brings pages of a process to the nodes planned for them. Needs CAP_SYS_NICE for pages that others
// share. Any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "common/status.h"
#include "numa/machine.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

struct Settled {
  uint64_t moved = 0;  ///< bytes
  uint64_t left = 0;   ///< bytes that could not be moved: their node is full, or they are pinned
  Numbers full;        ///< the nodes of those
};

/// Looks where the pages of `planned` are, one in 32, and moves those of each stretch that is not
/// where it belongs (move_pages(2)). Pages filled under the right policy are, so this moves what no
/// policy of a map reaches: pages of shared objects.
Result<Settled> settle_pages(pid_t pid, const image::ProcessPlacement& planned);

}  // namespace fermata::numa
