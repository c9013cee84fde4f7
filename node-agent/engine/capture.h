// Capture of a pod: stop every process, record the state of every kernel object, know which pages
// are the job's. Called on one thread (the tracer: ptrace(2) ties a tracee to it). While a
// FrozenPod lives the pod stands still; its destruction lets the pod run on, whatever happened.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/engine/page_finder.h"
#include "node-agent/engine/page_search.h"
#include "node-agent/engine/remote.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

/// Where PID 1 holds the streams of single ranks: three each, in their order here.
inline constexpr int kFirstRankStream = 4;

/// One stopped thread, for who needs host ids (numa).
struct FrozenThread {
  int vtid = 0;
  pid_t tid = 0;
};

struct FrozenProcess {
  int vpid = 0;
  pid_t pid = 0;
  std::vector<FrozenThread> threads;
};

/// A twin, which lives as long as somebody has this.
struct TwinProcess {
  pid_t pid = 0;
  std::shared_ptr<const void> alive;
};

/// Memory of a pod that is about to be let go: twin.h.
struct TwinMemory {
  /// As FrozenPod::memory(); what a process has of its own is read from its twin, which lives as
  /// long as a source that reads it.
  std::vector<MemoryRegion> regions;
  /// Of twins: what find_in_twins() has to add to `regions` before they are read.
  std::vector<UnfoundPages> unfound;
  /// The part of `regions` that no twin has: to be copied while the pod still stands. Their sources
  /// read the stopped pod.
  std::vector<MemoryRegion> rest;
  std::vector<TwinProcess> twins;
};

class FrozenPod {
 public:
  /// Stops every process of the cgroup v2 group `group` (freeze, seize, thaw: each thread is then
  /// held by ptrace alone). `init` is the host PID of the pod's PID 1. Fails with everything
  /// running again: kTimeout when a task does not stop within `deadline_ms`, kCannotHold when a
  /// process may not be traced.
  /// A group that is frozen already is frozen again when the pod is let go (a suspended job),
  /// unless `left_frozen`: then an agent that died froze it. `twins`: processes of ours in the
  /// group, which run on once all others are held.
  static Result<std::unique_ptr<FrozenPod>> freeze(const std::filesystem::path& group, pid_t init,
                                                   int deadline_ms, bool left_frozen = false,
                                                   std::span<const pid_t> twins = {});
  virtual ~FrozenPod() = default;

  /// Before capture(): who says which pages are needed, instead of EveryPage. Outlives this.
  virtual void find_pages_by(PageFinder& finder) = 0;

  /// Before capture(): twins() will be called after it. Each process then begins its twin as soon
  /// as it was looked at, and others are looked at meanwhile. Pages that can be found in a twin as
  /// well are not in memory(), but for those that no twin has.
  virtual void expect_twins() = 0;
  /// Twins were expected and none will be asked for, or none are to be had: finds those pages.
  virtual Status find_pages_here() = 0;

  /// Records everything. kCannotHold names every object that stands in the way, one a line.
  virtual Result<image::PodObjects> capture() = 0;

  /// After capture(): the memory of every process and shared object; sources read the stopped pod
  /// and are valid until resume() or kill(). Sources may be read from any thread.
  virtual const std::vector<MemoryRegion>& memory() const = 0;

  /// After capture(): copy-on-write twins of all processes, so that the pod may be let go before
  /// its memory was read. Fails where there is no room for them; the pod then stands as before.
  virtual Result<TwinMemory> twins(const image::PodObjects& objects) = 0;

  virtual const std::vector<FrozenProcess>& processes() const = 0;
  /// A stopped thread to make calls in.
  virtual Result<Remote*> remote(int vpid, int vtid) = 0;

  /// After capture(): TCP connections whose other end is not in the pod. Refused (kCannotHold)
  /// unless allow_outside_connections() was called before.
  virtual const std::vector<image::OutsideConnection>& outside_connections() const = 0;
  virtual void allow_outside_connections() = 0;
  /// Before capture(): so many descriptors of PID 1, from kFirstRankStream on, are streams of the
  /// job, too: each rank has its own three. They come from outside and are replaced at a restart.
  virtual void expect_rank_streams(int count) = 0;
  /// Our descriptors of the connections that a cut held up, those inside the pod included, for
  /// nudge(); taken once. A close() of the program's takes effect when they are closed, too.
  virtual std::vector<UniqueFd> take_outside_sockets() = 0;

  /// Lets every thread run on where it was. Also done by the destructor.
  virtual Status resume() = 0;
  /// SIGKILLs every process instead. PID 1 is left for its parent to reap.
  virtual Status kill() = 0;
};

/// Finds the pages of twins and adds them to `regions`, which are of the same TwinMemory. The pod
/// may run; nothing was read from the twins yet. kGone: somebody has ended one. The thread that
/// made the twins.
Status find_in_twins(const std::vector<UnfoundPages>& unfound, std::vector<MemoryRegion>& regions);

/// What a cut held up is sent at once, instead of when a retransmission timer runs out; then closes
/// the descriptors. The programs may run. Harmless to a socket that was closed or reset meanwhile.
/// Any thread; needs CAP_NET_ADMIN.
void nudge(std::vector<UniqueFd> sockets);
/// The part of it that can be done before the other ends hear: what was never sent goes out.
void send_unsent(const std::vector<UniqueFd>& sockets);

}  // namespace fermata::engine
