// System calls in a thread of a running job, safe against our own death at any instruction.
//
// The code that makes the calls stands in the unused tail of the program's vDSO page (a private
// copy, as a debugger's breakpoint makes one), its arguments and results in a mapping of our own,
// made at the first use in a process and removed by remove_scratch(). Before a thread is sent
// there, its registers and signal mask are written behind the code; the code ends by loading them
// and jumping back. So a thread that loses its tracer finishes the calls and goes on where it was.
// No breakpoint and no single step is used.
//
// Before that end the thread sends itself a signal that its program ignores. A traced thread stops
// at it, however long we take to look; for one without tracer it does not exist. So a batch of
// calls costs one stop. A program that ignores none (find_ignored_signal) is stopped at each call.
//
// Tracer's thread only.
#pragma once

#include <memory>
#include <optional>

#include "node-agent/engine/injection_site.h"
#include "node-agent/engine/proc_status.h"
#include "node-agent/engine/ptrace.h"
#include "node-agent/engine/remote.h"

namespace fermata::engine {

class CaptureRemote : public Remote {
 public:
  /// `resume` are the registers with which the program is to go on: what the stop left, with an
  /// interrupted system call rewound where the program would otherwise see EINTR. `status` is the
  /// thread's, read when it had stopped.
  static Result<std::unique_ptr<CaptureRemote>> open(pid_t pid, pid_t tid,
                                                     std::shared_ptr<InjectionSite> site,
                                                     const GeneralRegisters& resume,
                                                     uint64_t signal_mask,
                                                     const ProcStatus& status);

  Status run(std::span<RemoteCall> calls) override;
  uint64_t argument_address() const override { return site_->scratch_ + kArguments; }
  uint64_t call_argument_address(size_t index, size_t number) const override {
    return site_->scratch_ + kTable + index * 64 + 8 + number * 8;
  }
  pid_t tid() const { return tid_; }
  /// Whether a call did not come back in time: the thread is in it still, and ends it by itself.
  bool is_out() const { return out_; }

  /// Starts the making of a copy-on-write twin of the process and does not wait for it, so that
  /// several processes make theirs at once and we look at others meanwhile. Any call in a thread of
  /// the process waits for its end. end_twin() has to follow.
  Status begin_twin();
  /// The twin's PID in the pod; it sleeps for five seconds. Fails with clone(2)'s errno.
  Result<int> end_twin();

  /// Maps the scratch area if it is not there; run() and argument_address() need it.
  Status ensure_scratch();
  /// Unmaps it. The process is then as it was, but for bytes nobody reads behind the vDSO's end.
  Status remove_scratch();

 private:
  static constexpr uint64_t kTwin = 0x800;  // what a twin reads, also while later calls are made
  static constexpr uint64_t kTable = 0x1000;
  static constexpr uint64_t kTableSlots = 128;
  static constexpr uint64_t kArguments = 0x4000;
  static constexpr uint64_t kStackTop = 0xff00;

  /// Where the code ends: without a stack of ours, flags stay as they are.
  enum class Tail { kWithStack, kWithoutStack };

  Status write_save_area(Tail tail);
  Status single(RemoteCall& call);
  Status chunk(std::span<RemoteCall> calls);
  Status enter(const std::byte* entry, GeneralRegisters registers);
  Status leave_code();
  Result<Stop> wait();
  Status next_call_stop();
  Status reach_call_stop();
  Status reach_end();
  Status keep_if_foreign();
  void wait_for_twin();
  Result<int> twin_at_its_end();

  pid_t tid_ = -1;
  std::shared_ptr<InjectionSite> site_;
  GeneralRegisters resume_{};
  uint64_t mask_ = 0;
  int vpid_ = 0;
  int vtid_ = 0;
  int signal_ = 0;  ///< at which the thread stops when its calls are made; 0: none will do
  long single_result_ = 0;
  bool out_ = false;
  std::optional<Result<int>> twin_;  ///< made, and not asked for yet
};

}  // namespace fermata::engine
