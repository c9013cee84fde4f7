// Puts the unread messages of an image back into the queues of UNIX sockets, by sending them again.
// One rebuild, tracer's thread.
#pragma once

#include <cstdint>
#include <map>

#include "node-agent/engine/file_kinds.h"

namespace fermata::engine {

/// The UNIX sockets of an image, by file id.
using UnixFiles = std::map<uint32_t, const image::File*>;

/// Sends the messages of `file` from `sender` (ours), or (-1) each from where it came.
Status fill_unix_queue(const UnixFiles& files, const image::File& file, int sender,
                       RebuildContext& context);

}  // namespace fermata::engine
