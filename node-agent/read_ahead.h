// Reads the beginning of an image's largest memory while the processes that it is for are built
// yet: the disk would have nothing to do meanwhile. Who reads later gets what is there, and waits
// for what is on its way. Ends by itself when its readers have caught up, or when so much is read.
#pragma once

#include <cstdint>
#include <vector>

#include "common/memory_image.h"

namespace fermata::node_agent {

/// What is read ahead, at most.
inline constexpr uint64_t kReadAhead = 128U << 20;

/// Begins, by threads of its own that end with the region's source: the source of one region of
/// `memory` becomes one that knows what is read. The source before must be readable from any
/// thread. Does nothing where there is little memory to read, or little to hold it. What fails is
/// read again, and told, when it is asked for.
void begin_to_read_ahead(std::vector<MemoryRegion>& memory, uint64_t most = kReadAhead);

}  // namespace fermata::node_agent
