// Copy-on-write twins: for each process of a stopped pod a child that shares its pages, so that the
// pod runs on at once and its memory of that instant is read from the twin. What fork(2) leaves
// out - shared memory, MADV_DONTFORK, MADV_WIPEONFORK - is not in a twin, nor is memory of huge
// pages (MAP_HUGETLB): there may be none for a copy on write.
//
// The job does not see its twins as children of its own: they are made by a go-between that ends at
// once, so that PID 1 inherits and reaps them. They hold none of the job's files. A twin executes
// nothing: it is held by ptrace with PTRACE_O_EXITKILL and so ends with us; one that we died
// before we held sleeps for five seconds and ends.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "common/status.h"
#include "node-agent/engine/capture.h"
#include "node-agent/engine/held.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// Has a process begin its twin, and does not wait for it. Tracer's thread.
Status begin_twin(HeldProcess& process);

/// Makes twins of all of `held` at once, on as many cores as there are; those that were begun are
/// waited for. `memory`, `unfound` and `objects` are of the capture just made. On failure (no
/// memory, a limit of processes) none is left. Tracer's thread.
Result<TwinMemory> make_twins(const std::filesystem::path& group, std::vector<HeldProcess>& held,
                              const image::PodObjects& objects,
                              const std::vector<MemoryRegion>& memory,
                              const std::vector<UnfoundPages>& unfound);

/// Ends the twins that were begun and not made use of. Tracer's thread.
void drop_twins(const std::filesystem::path& group, std::vector<HeldProcess>& held);

}  // namespace fermata::engine
