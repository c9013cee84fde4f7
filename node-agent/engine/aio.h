// Linux AIO contexts (io_setup(2)). A context is a ring of completions mapped at an address that is
// its handle; the kernel tells neither how many requests are in flight nor waits for them but in
// io_destroy(2). So a capture destroys the context, which leaves every completion in the ring, and
// puts an equal one back at the same address at once, with the same completions: the program, run
// on or rebuilt, gets each of them once.
//
// What if we die in the middle? The steps from io_destroy to the refilled ring are one batch of
// calls (see Remote), which the program finishes without us. Only two things then stay undone: a
// cancelled IOCB_CMD_POLL is seen as completed with no events, and up to four descriptors and a
// mapping of ours remain. Tracer's thread.
#pragma once

#include <cstdint>
#include <span>

#include "common/status.h"
#include "node-agent/engine/remote.h"
#include "proto/process.pb.h"

namespace fermata::engine {

/// A mapping of "/[aio]".
struct AioRing {
  uint64_t start = 0;
  uint64_t length = 0;
};

/// Waits until everything in flight is complete and memory holds its bytes, and records the
/// contexts. To be called before memory is looked at, with every thread of the process stopped.
Status drain_and_capture_aio(Remote& process, std::span<const AioRing> rings, image::Process& out);

/// Makes the context again at its address, which is free: when memory and files of the process are
/// in place.
Status rebuild_aio(Remote& process, const image::AioContext& context);

}  // namespace fermata::engine
