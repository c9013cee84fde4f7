// Writes noticed by soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst): "4" written to
// /proc/PID/clear_refs protects every page, and bit 55 of the page map tells which were written
// since. There is one such state for each process: whoever else clears it takes away what we would
// have seen. Nothing else on a machine does but a debugger of memory.
#pragma once

#include <sys/types.h>

#include <memory>

#include "node-agent/engine/write_tracker.h"

namespace fermata::engine {

/// kUnsupported: the kernel was built without it.
Status soft_dirty_is_usable();

Result<std::unique_ptr<WriteTracker>> start_soft_dirty(pid_t pid);

}  // namespace fermata::engine
