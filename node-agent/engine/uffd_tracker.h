// Writes noticed by userfaultfd (UFFD_FEATURE_WP_ASYNC, Linux 6.7): the kernel takes the protection
// off a page by itself at the first write, and PAGEMAP_SCAN tells which pages have lost it. The
// descriptor is made by a call in the process, is ours from then on, and the process keeps none.
// Closing it ends the tracking.
//
// Not tracked, and told so: maps made since, what mremap(2) moved, a program executed since, memory
// of a child. Private pages only: shared memory is written through maps that are not registered.
#pragma once

#include <memory>

#include "node-agent/engine/write_tracker.h"

namespace fermata::engine {

/// kUnsupported, with what is missing.
Status uffd_is_usable();

/// The first write to a huge page that is tracked breaks it into small ones, and none is made again
/// where one is tracked: `spare_huge_pages` leaves maps alone that have any, also those that came
/// to have some while they were tracked.
Result<std::unique_ptr<WriteTracker>> start_uffd(bool spare_huge_pages, Remote& remote);

}  // namespace fermata::engine
