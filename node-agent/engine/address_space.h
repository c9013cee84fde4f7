// The memory maps of a process: what backs each, and making them again. Tracer's thread only.
#pragma once

#include "node-agent/engine/held.h"
#include "node-agent/engine/lazy_fill.h"
#include "node-agent/engine/maps.h"
#include "node-agent/engine/page_search.h"
#include "node-agent/engine/pages.h"
#include "node-agent/engine/rebuild_remote.h"
#include "node-agent/engine/shared_objects.h"
#include "proto/process.pb.h"

namespace fermata::engine {

/// Records the maps and has `search` find the pages that are the process's own. kCannotHold names a
/// map of a kind that cannot be rebuilt (device, shared huge pages, userfaultfd; of `finder`: those
/// of ours).
Status capture_address_space(HeldProcess& process, pid_t init, SharedObjectRecorder& recorder,
                             const PageFinder& finder, PageSearch& search, image::Process& out);

/// Whether a twin has not the pages of a map: fork(2) does not give them to a child (madvise(2)),
/// or they are huge pages, which twins give up.
bool is_left_out(const image::Vma& vma);

/// Whether any of the maps touches [start, end).
bool overlaps(const image::Process& process, uint64_t start, uint64_t end);

/// Makes the maps, empty. Files are opened by the process, with the owner's rights.
Status rebuild_maps(RebuildRemote& remote, pid_t init, const image::Process& process,
                    const SharedObjectStore& store, const std::vector<MemoryRegion>& memory);
/// Fills them, then applies final protections, advice and locks. `lazy`: takes over what may come
/// later; may be null.
Status rebuild_contents(RebuildRemote& remote, const image::Process& process,
                        const std::vector<MemoryRegion>& memory, LazyFill* lazy);

/// A syscall instruction in the rebuilt vDSO.
Result<uint64_t> find_vdso_syscall(RebuildRemote& remote, const image::Process& process);

}  // namespace fermata::engine
