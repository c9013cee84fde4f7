// The pod's private /dev/shm: its folders, files, links and FIFOs. Sockets are made by who binds
// them. Tracer's thread only.
#pragma once

#include <sys/types.h>

#include "common/credentials.h"
#include "node-agent/engine/shared_objects.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// Records everything below /dev/shm as PID 1 `init` sees it.
Status capture_shm_tree(pid_t init, SharedObjectRecorder& recorder, image::PodObjects& objects);

/// Makes it again in the fresh /dev/shm of `init`. Files belong to `owner` whatever the image says,
/// unless that is root.
Status rebuild_shm_tree(pid_t init, const Credentials& owner, const image::PodObjects& objects,
                        const std::vector<MemoryRegion>& memory);

}  // namespace fermata::engine
