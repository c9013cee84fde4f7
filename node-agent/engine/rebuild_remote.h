// System calls in a process under construction. It has nothing of its own yet but one mapping of
// ours, the bootstrap area, at an address that no process of the image uses; it dies with us
// (PTRACE_O_EXITKILL). Tracer's thread only.
#pragma once

#include <linux/sched.h>

#include <memory>

#include "node-agent/engine/ptrace.h"
#include "node-agent/engine/remote.h"

namespace fermata::engine {

class RebuildRemote : public Remote {
 public:
  static constexpr uint64_t kBootstrapSize = 1 << 20;

  /// Takes the stopped fork of ours `pid`, maps the bootstrap area at `bootstrap` and unmaps
  /// everything else. All descriptors are closed, rseq is unregistered.
  static Result<std::unique_ptr<RebuildRemote>> strip(pid_t pid, uint64_t bootstrap);

  /// A thread or child just made by create(): stopped, sharing or having a copy of the area.
  static Result<std::unique_ptr<RebuildRemote>> adopt(pid_t pid, pid_t tid, uint64_t bootstrap);

  Status run(std::span<RemoteCall> calls) override;
  uint64_t argument_address() const override { return bootstrap_ + kArguments; }
  uint64_t call_argument_address(size_t index, size_t number) const override {
    return bootstrap_ + kTable + index * 64 + 8 + number * 8;
  }

  /// clone3(2) with set_tid: makes process or thread `vtid`, attached and stopped before its first
  /// instruction. Returns its host TID.
  Result<pid_t> create(uint64_t clone_flags, int exit_signal, int vtid);

  /// From now on calls are made at `gadget`, a syscall instruction of the rebuilt vDSO, so that the
  /// bootstrap area itself can go.
  Result<long> call_at(uint64_t gadget, std::string_view what, long number,
                       std::array<uint64_t, 6> args);

  /// Enters a blocking call and interrupts it at once: the kernel then holds its restart block.
  /// Afterwards only call_at() and stop_for_registers() may follow.
  /// Returns what the call returned: -ERESTART_RESTARTBLOCK, or its result when it was over by
  /// then.
  Result<long> start_and_interrupt(long number, std::array<uint64_t, 6> args);

  /// Stops the thread where registers may be loaded and the kernel's own restart of system calls
  /// works: in its signal path, before any instruction of the program.
  Status stop_for_registers();

  /// Stops the process as SIGSTOP does. Calls can still be made in it; it stands when it is
  /// detached.
  Status enter_group_stop();
  /// Ends the process by a signal, as its wait status will say.
  Status die_of(int signo);

  pid_t tid() const { return tid_; }

 private:
  static constexpr uint64_t kTable = 0x1000;
  static constexpr uint64_t kTableSlots = 1024;
  static constexpr uint64_t kArguments = 0x20000;
  static constexpr uint64_t kStackTop = 0x80000;

  Status run_to_trap(const GeneralRegisters& registers, pid_t* born);
  Status install_bootstrap();
  GeneralRegisters call_registers(uint64_t gadget, long number,
                                  const std::array<uint64_t, 6>& args) const;

  pid_t tid_ = -1;
  uint64_t bootstrap_ = 0;
  GeneralRegisters base_{};
};

}  // namespace fermata::engine
