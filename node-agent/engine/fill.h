// Fills the memory of a process under construction from an image: some threads, each reading,
// checking and writing its share, so that the disk, and not one processor, sets the pace.
#pragma once

#include <sys/types.h>

#include "common/memory_image.h"
#include "common/status.h"

namespace fermata::engine {

/// Writes all bytes that are here of `region` into the maps of `pid`, which are writable. Pages are
/// taken in the order in which an image has them, in whole blocks of it. Any thread with ptrace
/// rights over `pid`; returns when its own threads have ended.
Status fill_memory(pid_t pid, const MemoryRegion& region);

}  // namespace fermata::engine
