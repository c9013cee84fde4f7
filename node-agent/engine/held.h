// The processes and threads of a pod while we hold them. Tracer's thread only.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "node-agent/engine/injection.h"
#include "node-agent/engine/proc_status.h"
#include "node-agent/engine/ptrace.h"

namespace fermata::engine {

/// What PTRACE_GET_RSEQ_CONFIGURATION tells (ptrace(2), Linux 5.13).
struct RseqConfiguration {
  uint64_t pointer = 0;
  uint32_t size = 0;
  uint32_t signature = 0;
  uint32_t flags = 0;
  uint32_t pad = 0;
};

/// One thread in ptrace-stop. Its destructor does not let it go: HeldProcess::release() does.
struct HeldThread {
  pid_t tid = 0;
  bool in_stop = false;  ///< its stop was seen
  ProcStatus status;
  /// The registers at the stop. A call that a mere stop ends with EINTR stands as -ERESTARTNOHAND
  /// here: the kernel then makes it again, or ends it with EINTR if a handler is to run, as it does
  /// for other calls (signal(7)).
  GeneralRegisters registers{};
  uint64_t signal_mask = 0;
  RseqConfiguration rseq;
  bool registers_changed = false;         ///< the kernel's copy differs from `registers`
  std::unique_ptr<CaptureRemote> remote;  ///< once calls were made in it
};

/// One process of the pod, or a zombie (which has no threads).
struct HeldProcess {
  pid_t pid = 0;
  int vpid = 0;
  pid_t parent = 0;  ///< host PID
  bool zombie = false;
  bool stopped = false;  ///< in a group stop
  std::string name;
  std::vector<HeldThread> threads;  ///< the leader first
  std::shared_ptr<InjectionSite> site;
  bool twin_begun = false;  ///< and not taken yet: twin.h

  /// Whether every thread attached has stopped.
  bool all_stopped() const;
  /// "process 12 (lmp)".
  std::string describe() const;
  HeldThread& leader() { return threads.front(); }
  const HeldThread& leader() const { return threads.front(); }
};

/// Attaches to and stops every thread of a process. Also on failure `process` has those attached,
/// for release(). kTimeout: a thread did not stop within `deadline_ms`.
Status hold(pid_t pid, int deadline_ms, HeldProcess& process);

/// Whether a thread of the process waits for its vfork(2) child to exec: it cannot be stopped
/// before that.
bool waits_in_vfork(pid_t pid);

/// A remote for calls in the thread, made at the first request.
Result<CaptureRemote*> remote_of(HeldProcess& process, HeldThread& thread);

/// Puts every thread's registers back as they were, removes the scratch mapping, detaches. Threads
/// that ended meanwhile are passed over.
/// Threads that were killed meanwhile are added to `dead`: reap_tracees() has to wait for them,
/// else their namespace never ends.
void release(HeldProcess& process, std::vector<pid_t>& dead);

}  // namespace fermata::engine
