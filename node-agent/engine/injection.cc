#include "node-agent/engine/injection.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <utility>

#include "node-agent/engine/injection_code.h"

namespace fermata::engine {
namespace {

constexpr uint64_t kAllSignals = ~0ULL;

constexpr uint64_t bit_of(int signo) { return 1ULL << (signo - 1); }

/// A signal that the process ignores, so that nothing comes of it when no tracer is there: by
/// default or by its own choice. None that says something about a child, a fault or a stop, and
/// none that is pending: it would be taken for ours. 0: there is none.
int find_ignored_signal(const ProcStatus& status) {
  constexpr uint64_t kByDefault = bit_of(SIGURG) | bit_of(SIGWINCH);
  constexpr std::array<int, 12> kHarmless{SIGURG,  SIGWINCH, SIGPIPE, SIGUSR1, SIGUSR2, SIGIO,
                                          SIGXFSZ, SIGPWR,   SIGHUP,  SIGQUIT, SIGALRM, SIGVTALRM};
  const uint64_t ignored = (status.ignored | (kByDefault & ~status.caught)) &
                           ~(status.pending_thread | status.pending_process);
  const auto* const found = std::find_if(kHarmless.begin(), kHarmless.end(),
                                         [&](int signo) { return (ignored & bit_of(signo)) != 0; });
  return found == kHarmless.end() ? 0 : *found;
}

}  // namespace

Result<std::unique_ptr<CaptureRemote>> CaptureRemote::open(pid_t pid, pid_t tid,
                                                           std::shared_ptr<InjectionSite> site,
                                                           const GeneralRegisters& resume,
                                                           uint64_t signal_mask,
                                                           const ProcStatus& status) {
  auto remote = std::make_unique<CaptureRemote>();
  FERMATA_TRY_RESULT(remote->open_process(pid));
  remote->tid_ = tid;
  remote->site_ = std::move(site);
  remote->resume_ = resume;
  // From here on the registers stand for "after the call was rewound": the kernel must not do it
  // again.
  if (static_cast<long>(resume.orig_rax) >= 0) {
    switch (-static_cast<long>(resume.rax)) {
      case 512:  // ERESTARTSYS
      case 513:  // ERESTARTNOINTR
      case 514:  // ERESTARTNOHAND
        remote->resume_.rax = resume.orig_rax;
        remote->resume_.rip -= 2;
        break;
      case 516:  // ERESTART_RESTARTBLOCK: the kernel still has the block
        remote->resume_.rax = SYS_restart_syscall;
        remote->resume_.rip -= 2;
        break;
      default:
        break;
    }
    remote->resume_.orig_rax = ~0ULL;
  }
  remote->mask_ = signal_mask;
  remote->vpid_ = status.vpid;
  remote->vtid_ = status.vtid;
  remote->signal_ = find_ignored_signal(status);
  return remote;
}

Status CaptureRemote::write_save_area(Tail tail) {
  if (!site_->code_written_) {
    FERMATA_TRY(write_memory(site_->code_, injection_code()));
    site_->code_written_ = true;
  }
  const GeneralRegisters& r = resume_;
  const auto signal = static_cast<uint64_t>(signal_);
  const uint64_t open = signal_ == 0 ? kAllSignals : ~bit_of(signal_);
  const uint64_t tail_address =
      site_->code_ + injection_offset(tail == Tail::kWithStack ? fermata_inject_tail
                                                               : fermata_inject_tail_without_stack);
  const InjectionSave save{r.rax,
                           r.rbx,
                           r.rcx,
                           r.rdx,
                           r.rsi,
                           r.rdi,
                           r.rbp,
                           r.rsp,
                           r.r8,
                           r.r9,
                           r.r10,
                           r.r11,
                           r.r12,
                           r.r13,
                           r.r14,
                           r.r15,
                           r.eflags,
                           mask_,
                           r.rip,
                           static_cast<uint64_t>(vpid_),
                           static_cast<uint64_t>(vtid_),
                           signal,
                           open,
                           tail_address};
  return put(site_->code_ + injection_offset(fermata_inject_save), save);
}

// Puts the program's own state back. The mask goes first: were we to die between the two, the
// thread would still be in our code, whose end does the rest.
Status CaptureRemote::leave_code() {
  FERMATA_TRY(set_signal_mask(tid_, mask_));
  return set_registers(tid_, resume_);
}

/// Sends the thread to an entry of the code. Registers before mask: until the mask is set no
/// instruction of the program's can run.
Status CaptureRemote::enter(const std::byte* entry, GeneralRegisters registers) {
  registers.rip = site_->code_ + injection_offset(entry);
  registers.orig_rax = ~0ULL;
  FERMATA_TRY(set_registers(tid_, registers));
  return set_signal_mask(tid_, kAllSignals);
}

Result<Stop> CaptureRemote::wait() {
  Result<Stop> stop = wait_stop(tid_);
  if (!stop) out_ = true;
  return stop;
}

/// The next stop at the beginning or end of a system call.
Status CaptureRemote::next_call_stop() {
  FERMATA_TRY(resume_thread(tid_, PTRACE_SYSCALL));
  return reach_call_stop();
}

Status CaptureRemote::reach_call_stop() {
  for (;;) {
    FERMATA_ASSIGN_STATUS(const Stop stop, wait());
    if (stop.syscall) return Status::ok();
    FERMATA_TRY(resume_thread(tid_, PTRACE_SYSCALL, stop.to_pass_on()));
  }
}

/// The stop at the end of the calls.
Status CaptureRemote::reach_end() {
  for (;;) {
    FERMATA_ASSIGN_STATUS(const Stop stop, wait());
    if (stop.event == 0 && stop.signal == signal_) break;
    FERMATA_TRY(resume_thread(tid_, PTRACE_CONT, stop.to_pass_on()));
  }
  FERMATA_ASSIGN_STATUS(const GeneralRegisters at, get_registers(tid_));
  if (at.rip != site_->code_ + injection_offset(fermata_inject_stopped)) {
    return {
        Code::kInternal,
        fmt::format("thread {} stopped at {:#x}, which is not where its calls end", tid_, at.rip)};
  }
  single_result_ = static_cast<long>(at.rbx);
  return keep_if_foreign();
}

/// Somebody else sent the same signal: a program may block it and wait for it. Blocked, it is put
/// back where it was.
Status CaptureRemote::keep_if_foreign() {
  siginfo_t info{};
  if (::ptrace(PTRACE_GETSIGINFO, tid_, nullptr, &info) != 0) {
    return errno_status(errno, fmt::format("reading the signal of thread {}", tid_));
  }
  if (info.si_code == SI_TKILL && info.si_pid == vpid_) return Status::ok();
  FERMATA_TRY(set_signal_mask(tid_, kAllSignals));
  FERMATA_TRY(interrupt(tid_));
  FERMATA_TRY(resume_thread(tid_, PTRACE_CONT, signal_));
  FERMATA_ASSIGN_STATUS([[maybe_unused]] const Stop stop, wait());
  return Status::ok();
}

/// Until no thread of the process is in the code any more.
void CaptureRemote::wait_for_twin() {
  CaptureRemote* const maker = std::exchange(site_->makes_twin_, nullptr);
  if (maker != nullptr) maker->twin_ = maker->twin_at_its_end();
}

Status CaptureRemote::single(RemoteCall& call) {
  wait_for_twin();
  FERMATA_TRY(write_save_area(Tail::kWithoutStack));
  GeneralRegisters registers = resume_;
  registers.rax = static_cast<uint64_t>(call.number);
  registers.rdi = call.args[0];
  registers.rsi = call.args[1];
  registers.rdx = call.args[2];
  registers.r10 = call.args[3];
  registers.r8 = call.args[4];
  registers.r9 = call.args[5];
  FERMATA_TRY(enter(fermata_inject_single, registers));
  if (signal_ != 0) {
    FERMATA_TRY(resume_thread(tid_, PTRACE_CONT));
    FERMATA_TRY(reach_end());
    call.result = single_result_;
  } else {
    FERMATA_TRY(next_call_stop());
    FERMATA_TRY(next_call_stop());
    FERMATA_ASSIGN_STATUS(const GeneralRegisters after, get_registers(tid_));
    call.result = static_cast<long>(after.rax);
  }
  return leave_code();
}

Status CaptureRemote::ensure_scratch() {
  if (site_->scratch_ != 0) return Status::ok();
  RemoteCall map{SYS_mmap,
                 {0, InjectionSite::kScratchSize, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, ~0ULL, 0},
                 0};
  FERMATA_TRY(single(map));
  if (map.result < 0 && map.result >= -4095) {
    return errno_status(Code::kCannotHold, static_cast<int>(-map.result),
                        fmt::format("mapping 64 KiB in process {} (address space limit?)", pid_));
  }
  site_->scratch_ = static_cast<uint64_t>(map.result);
  return put(site_->scratch_, InjectionSite::kScratchMagic);
}

Status CaptureRemote::remove_scratch() {
  if (site_->scratch_ == 0) return Status::ok();
  RemoteCall unmap{SYS_munmap, {site_->scratch_, InjectionSite::kScratchSize}, 0};
  FERMATA_TRY(single(unmap));
  site_->scratch_ = 0;
  return Status::ok();
}

Status CaptureRemote::chunk(std::span<RemoteCall> calls) {
  wait_for_twin();
  struct Slot {
    uint64_t number;
    std::array<uint64_t, 6> args;
    uint64_t result;
  };
  static_assert(sizeof(Slot) == 64);
  std::vector<Slot> table;
  table.reserve(calls.size());
  for (const RemoteCall& one : calls)
    table.push_back({static_cast<uint64_t>(one.number), one.args, 0});
  const uint64_t address = site_->scratch_ + kTable;
  FERMATA_TRY(write_memory(address, std::as_bytes(std::span(table))));
  FERMATA_TRY(write_save_area(Tail::kWithStack));

  GeneralRegisters registers = resume_;
  registers.rbx = address;
  registers.rbp = table.size();
  registers.rsp = site_->scratch_ + kStackTop;
  FERMATA_TRY(enter(fermata_inject_batch, registers));
  if (signal_ != 0) {
    FERMATA_TRY(resume_thread(tid_, PTRACE_CONT));
    FERMATA_TRY(reach_end());
    FERMATA_TRY(read_memory(address, std::as_writable_bytes(std::span(table))));
    for (size_t i = 0; i < calls.size(); ++i) calls[i].result = static_cast<long>(table[i].result);
    return leave_code();
  }
  for (RemoteCall& one : calls) {
    FERMATA_TRY(next_call_stop());
    FERMATA_TRY(next_call_stop());
    // The last result is still in the register: the code has not stored it yet.
    FERMATA_ASSIGN_STATUS(const GeneralRegisters after, get_registers(tid_));
    one.result = static_cast<long>(after.rax);
  }
  return leave_code();
}

Status CaptureRemote::run(std::span<RemoteCall> calls) {
  FERMATA_TRY(ensure_scratch());
  while (!calls.empty()) {
    const size_t count = std::min<size_t>(calls.size(), kTableSlots);
    FERMATA_TRY(chunk(calls.first(count)));
    calls = calls.subspan(count);
  }
  return Status::ok();
}

Status CaptureRemote::begin_twin() {
  constexpr timespec kUnlessTaken{5, 0};
  FERMATA_TRY(ensure_scratch());
  wait_for_twin();
  const uint64_t answer = site_->scratch_ + kTwin;
  FERMATA_TRY(put(answer, int64_t{0}));
  FERMATA_TRY(put(answer + sizeof(int64_t), kUnlessTaken));
  FERMATA_TRY(write_save_area(Tail::kWithStack));
  GeneralRegisters registers = resume_;
  registers.rbx = answer;
  registers.rbp = answer + sizeof(int64_t);
  registers.rsp = site_->scratch_ + kStackTop;
  FERMATA_TRY(enter(fermata_inject_twin, registers));
  if (signal_ != 0) {
    FERMATA_TRY(resume_thread(tid_, PTRACE_CONT));
  } else {
    FERMATA_TRY(next_call_stop());
    FERMATA_TRY(resume_thread(tid_, PTRACE_SYSCALL));
  }
  site_->makes_twin_ = this;
  return Status::ok();
}

Result<int> CaptureRemote::end_twin() {
  if (site_->makes_twin_ == this) wait_for_twin();
  if (!twin_) return failure(Code::kInternal, "no copy-on-write twin was begun");
  Result<int> twin = *std::move(twin_);
  twin_.reset();
  return twin;
}

/// Waits until the thread has left the code that makes its twin.
Result<int> CaptureRemote::twin_at_its_end() {
  if (signal_ != 0) {
    FERMATA_TRY_RESULT(reach_end());
  } else {
    FERMATA_TRY_RESULT(reach_call_stop());  // the end of clone
    FERMATA_TRY_RESULT(next_call_stop());   // wait4, its beginning
    FERMATA_TRY_RESULT(next_call_stop());   // and end
  }
  FERMATA_TRY_RESULT(leave_code());
  int64_t twin = 0;
  FERMATA_TRY_RESULT(get(site_->scratch_ + kTwin, twin));
  if (twin > 0) return static_cast<int>(twin);
  return errno_failure(twin == 0 ? EAGAIN : static_cast<int>(-twin), "making a copy-on-write twin");
}

}  // namespace fermata::engine
