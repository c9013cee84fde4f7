// ptrace(2) as Results: registers, signal mask, stops. Called by the tracer's thread only.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"

namespace fermata::engine {

using GeneralRegisters = user_regs_struct;

Result<GeneralRegisters> get_registers(pid_t tid);
Status set_registers(pid_t tid, const GeneralRegisters& registers);

/// The XSAVE area (NT_X86_XSTATE), as long as the kernel has it.
Result<std::vector<std::byte>> get_xstate(pid_t tid);
Status set_xstate(pid_t tid, const std::vector<std::byte>& xstate);

Result<uint64_t> get_signal_mask(pid_t tid);
Status set_signal_mask(pid_t tid, uint64_t mask);

/// Attaches without stopping (PTRACE_SEIZE) with the given PTRACE_O_* options.
Status seize(pid_t tid, unsigned long options);
/// Asks for a stop (PTRACE_INTERRUPT); wait_stop() tells when it is there.
Status interrupt(pid_t tid);

/// What waitpid said of a stop.
struct Stop {
  int signal = 0;  ///< WSTOPSIG without the 0x80 of PTRACE_O_TRACESYSGOOD
  int event = 0;   ///< PTRACE_EVENT_*, 0 for a plain stop
  bool syscall = false;

  /// What a thread that makes calls with all signals blocked is to be resumed with: SIGSTOP, which
  /// nothing blocks, is the program's; 0 otherwise.
  int to_pass_on() const;
};

/// Waits for the thread's next stop. kGone when it ended, kTimeout when none came within `timeout`.
/// An end is not waited for: reap_tracees() is for that, or the thread's parent.
Result<Stop> wait_stop(pid_t tid, std::chrono::milliseconds timeout = std::chrono::seconds(30));

/// Resumes with PTRACE_CONT, PTRACE_SYSCALL or PTRACE_SINGLESTEP; a thread that stopped at a
/// signal gets `signal`, if any.
Status resume_thread(pid_t tid, int request, int signal = 0);

/// Lets the thread go (PTRACE_DETACH). One that was killed meanwhile is added to `dead`: it stays a
/// zombie, and its parent waits, until reap_tracees() has been told of it.
Status detach(pid_t tid, std::vector<pid_t>& dead);

/// Waits until every one of these killed tracees is gone, ten seconds at most. In whatever order
/// they end: the last thread of a PID 1 stays until all others of its namespace were waited for
/// (pid_namespaces(7)).
void reap_tracees(std::vector<pid_t> tids);

/// Once, without waiting: takes those that are gone out of `tids`.
void reap_ended_tracees(std::vector<pid_t>& tids);

}  // namespace fermata::engine
