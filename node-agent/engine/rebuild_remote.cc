#include "node-agent/engine/rebuild_remote.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <cstring>

#include "node-agent/engine/maps.h"

// Runs the calls of the table at %rbx, %rbp in number, and traps.
asm(R"(
    .pushsection .rodata
    .balign 16
    .globl fermata_rebuild_code, fermata_rebuild_code_end
fermata_rebuild_code:
1:  test %rbp, %rbp
    jz 2f
    mov 0(%rbx), %rax
    mov 8(%rbx), %rdi
    mov 16(%rbx), %rsi
    mov 24(%rbx), %rdx
    mov 32(%rbx), %r10
    mov 40(%rbx), %r8
    mov 48(%rbx), %r9
    syscall
    mov %rax, 56(%rbx)
    add $64, %rbx
    dec %rbp
    jmp 1b
2:  int3
fermata_rebuild_code_end:
    .popsection
)");

extern "C" {
extern const std::byte fermata_rebuild_code[];
extern const std::byte fermata_rebuild_code_end[];
}

namespace fermata::engine {
namespace {

// The trap of the code must not be blocked: the kernel would reset its disposition (force_sig).
constexpr uint64_t kAllButTrap = ~(1ULL << (SIGTRAP - 1));
constexpr unsigned long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE |
                                   PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_EXITKILL;
constexpr uint64_t kUserEnd = 0x7ffffffff000;  // TASK_SIZE with four-level page tables

struct RseqConfiguration {
  uint64_t pointer;
  uint32_t size;
  uint32_t signature;
  uint32_t flags;
  uint32_t pad;
};
constexpr int kPtraceGetRseqConfiguration = 0x420f;

Result<uint64_t> find_syscall_instruction(Remote& process, pid_t pid) {
  FERMATA_ASSIGN(const std::vector<Map> maps, read_maps(pid));
  for (const Map& map : maps) {
    if (map.name != "[vdso]") continue;
    std::vector<std::byte> text(map.length());
    FERMATA_TRY_RESULT(process.read_memory(map.start, text));
    const std::array<std::byte, 2> want{std::byte{0x0f}, std::byte{0x05}};
    const auto at = std::search(text.begin(), text.end(), want.begin(), want.end());
    if (at != text.end()) return map.start + static_cast<uint64_t>(at - text.begin());
  }
  return failure(Code::kUnsupported, "the vDSO has no syscall instruction");
}

}  // namespace

Result<std::unique_ptr<RebuildRemote>> RebuildRemote::adopt(pid_t pid, pid_t tid,
                                                            uint64_t bootstrap) {
  auto remote = std::make_unique<RebuildRemote>();
  FERMATA_TRY_RESULT(remote->open_process(pid));
  remote->tid_ = tid;
  remote->bootstrap_ = bootstrap;
  FERMATA_ASSIGN(remote->base_, get_registers(tid));
  remote->base_.orig_rax = ~0ULL;
  return remote;
}

Result<std::unique_ptr<RebuildRemote>> RebuildRemote::strip(pid_t pid, uint64_t bootstrap) {
  FERMATA_TRY_RESULT(seize(pid, kOptions));
  FERMATA_TRY_RESULT(interrupt(pid));
  FERMATA_ASSIGN([[maybe_unused]] const Stop stop, wait_stop(pid));
  FERMATA_TRY_RESULT(set_signal_mask(pid, kAllButTrap));
  FERMATA_ASSIGN(std::unique_ptr<RebuildRemote> remote, adopt(pid, pid, bootstrap));
  FERMATA_ASSIGN(const uint64_t gadget, find_syscall_instruction(*remote, pid));

  RseqConfiguration rseq{};
  if (::ptrace(static_cast<__ptrace_request>(kPtraceGetRseqConfiguration), pid, sizeof rseq,
               &rseq) > 0 &&
      rseq.pointer != 0) {
    // Else its page goes and the kernel kills the process with SIGSEGV at the next preemption.
    constexpr uint64_t kRseqUnregister = 1;
    FERMATA_ASSIGN([[maybe_unused]] const long done,
                   remote->call_at(gadget, "unregistering rseq", SYS_rseq,
                                   {rseq.pointer, rseq.size, kRseqUnregister, rseq.signature}));
  }
  FERMATA_ASSIGN([[maybe_unused]] const long closed,
                 remote->call_at(gadget, "closing all files", SYS_close_range, {0, ~0U, 0}));
  FERMATA_ASSIGN([[maybe_unused]] const long mapped,
                 remote->call_at(gadget, "mapping the bootstrap area", SYS_mmap,
                                 {bootstrap, kBootstrapSize, PROT_READ | PROT_WRITE | PROT_EXEC,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~0ULL, 0}));
  FERMATA_TRY_RESULT(remote->install_bootstrap());
  std::array<RemoteCall, 2> unmaps{
      RemoteCall{SYS_munmap, {0, bootstrap}, 0},
      RemoteCall{
          SYS_munmap, {bootstrap + kBootstrapSize, kUserEnd - bootstrap - kBootstrapSize}, 0}};
  FERMATA_TRY_RESULT(remote->run(unmaps));
  for (const RemoteCall& unmap : unmaps) {
    if (unmap.result != 0) {
      return errno_failure(static_cast<int>(-unmap.result), "emptying a new address space");
    }
  }
  return remote;
}

Status RebuildRemote::install_bootstrap() {
  return write_memory(
      bootstrap_,
      {fermata_rebuild_code, static_cast<size_t>(fermata_rebuild_code_end - fermata_rebuild_code)});
}

Status RebuildRemote::run_to_trap(const GeneralRegisters& registers, pid_t* born) {
  FERMATA_TRY(set_registers(tid_, registers));
  while (true) {
    FERMATA_TRY(resume_thread(tid_, PTRACE_CONT));
    FERMATA_ASSIGN_STATUS(const Stop stop, wait_stop(tid_));
    if (stop.event == PTRACE_EVENT_CLONE || stop.event == PTRACE_EVENT_FORK ||
        stop.event == PTRACE_EVENT_VFORK) {
      unsigned long message = 0;
      if (::ptrace(PTRACE_GETEVENTMSG, tid_, nullptr, &message) != 0) {
        return errno_status(errno, "reading the PID of a new process");
      }
      if (born != nullptr) *born = static_cast<pid_t>(message);
    } else if (stop.event == 0 && stop.signal == SIGTRAP) {
      return Status::ok();
    } else if (stop.event == 0) {
      return {Code::kInternal,
              fmt::format("process {} under construction got signal {}", pid_, stop.signal)};
    }
  }
}

Status RebuildRemote::run(std::span<RemoteCall> calls) {
  struct Slot {
    uint64_t number;
    std::array<uint64_t, 6> args;
    int64_t result;
  };
  static_assert(sizeof(Slot) == 64);
  while (!calls.empty()) {
    const std::span<RemoteCall> part = calls.first(std::min<size_t>(calls.size(), kTableSlots));
    std::vector<Slot> table;
    table.reserve(part.size());
    for (const RemoteCall& one : part) {
      table.push_back({static_cast<uint64_t>(one.number), one.args, 0});
    }
    FERMATA_TRY(write_memory(bootstrap_ + kTable, std::as_bytes(std::span(table))));
    GeneralRegisters registers = base_;
    registers.rip = bootstrap_;
    registers.rbx = bootstrap_ + kTable;
    registers.rbp = table.size();
    registers.rsp = bootstrap_ + kStackTop;
    FERMATA_TRY(run_to_trap(registers, nullptr));
    FERMATA_TRY(read_memory(bootstrap_ + kTable, std::as_writable_bytes(std::span(table))));
    for (size_t i = 0; i < part.size(); ++i) part[i].result = table[i].result;
    calls = calls.subspan(part.size());
  }
  return Status::ok();
}

Result<pid_t> RebuildRemote::create(uint64_t clone_flags, int exit_signal, int vtid) {
  struct Arguments {
    clone_args clone;
    pid_t set_tid;
  };
  Arguments arguments{};
  arguments.clone.flags = clone_flags;
  arguments.clone.exit_signal = static_cast<uint64_t>(exit_signal);
  arguments.clone.set_tid = argument_address() + offsetof(Arguments, set_tid);
  arguments.clone.set_tid_size = vtid > 0 ? 1 : 0;
  arguments.set_tid = vtid;
  FERMATA_TRY_RESULT(put(argument_address(), arguments));

  // The code's loop would run in the child too, on the same table: both take the trap behind it.
  struct Slot {
    uint64_t number;
    std::array<uint64_t, 6> args;
    int64_t result;
  };
  const Slot slot{SYS_clone3, {argument_address(), sizeof(clone_args)}, 0};
  FERMATA_TRY_RESULT(put(bootstrap_ + kTable, slot));
  GeneralRegisters registers = base_;
  registers.rip = bootstrap_;
  registers.rbx = bootstrap_ + kTable;
  registers.rbp = 1;
  registers.rsp = bootstrap_ + kStackTop;
  pid_t born = -1;
  FERMATA_TRY_RESULT(run_to_trap(registers, &born));
  FERMATA_ASSIGN(const GeneralRegisters after, get_registers(tid_));
  Slot done{};
  FERMATA_TRY_RESULT(get(bootstrap_ + kTable, done));
  static_cast<void>(after);
  if (done.result < 0 || born < 0) {
    return Failure(errno_status(static_cast<int>(done.result < 0 ? -done.result : ECHILD),
                                fmt::format("making process or thread {} of the pod", vtid)));
  }
  FERMATA_ASSIGN(const Stop stop, wait_stop(born));
  if (stop.event != PTRACE_EVENT_STOP) {
    return failure(Code::kInternal, fmt::format("process {} was born with stop {}/{}", born,
                                                stop.signal, stop.event));
  }
  return born;
}

GeneralRegisters RebuildRemote::call_registers(uint64_t gadget, long number,
                                               const std::array<uint64_t, 6>& args) const {
  GeneralRegisters registers = base_;
  registers.rip = gadget;
  registers.rax = static_cast<uint64_t>(number);
  registers.rdi = args[0];
  registers.rsi = args[1];
  registers.rdx = args[2];
  registers.r10 = args[3];
  registers.r8 = args[4];
  registers.r9 = args[5];
  return registers;
}

Result<long> RebuildRemote::start_and_interrupt(long number, std::array<uint64_t, 6> args) {
  const std::span<const std::byte> code(
      fermata_rebuild_code, static_cast<size_t>(fermata_rebuild_code_end - fermata_rebuild_code));
  const std::array<std::byte, 2> want{std::byte{0x0f}, std::byte{0x05}};
  const auto at = std::search(code.begin(), code.end(), want.begin(), want.end());
  const uint64_t gadget = bootstrap_ + static_cast<uint64_t>(at - code.begin());
  FERMATA_TRY_RESULT(set_registers(tid_, call_registers(gadget, number, args)));
  FERMATA_TRY_RESULT(resume_thread(tid_, PTRACE_SYSCALL));
  FERMATA_ASSIGN(const Stop entry, wait_stop(tid_));
  if (!entry.syscall) {
    return failure(Code::kInternal, fmt::format("thread {} did not enter its sleep", tid_));
  }
  FERMATA_TRY_RESULT(resume_thread(tid_, PTRACE_SYSCALL));
  const timespec while_it_falls_asleep{0, 200'000};
  ::nanosleep(&while_it_falls_asleep, nullptr);
  FERMATA_TRY_RESULT(interrupt(tid_));
  FERMATA_ASSIGN(const Stop exit, wait_stop(tid_));
  if (!exit.syscall) {
    return failure(Code::kInternal, fmt::format("thread {} did not come out of its sleep", tid_));
  }
  FERMATA_ASSIGN(const GeneralRegisters after, get_registers(tid_));
  return static_cast<long>(after.rax);
}

Result<long> RebuildRemote::call_at(uint64_t gadget, std::string_view what, long number,
                                    std::array<uint64_t, 6> args) {
  const GeneralRegisters registers = call_registers(gadget, number, args);
  FERMATA_TRY_RESULT(set_registers(tid_, registers));
  for (int stops = 0; stops < 2;) {
    FERMATA_TRY_RESULT(resume_thread(tid_, PTRACE_SYSCALL));
    FERMATA_ASSIGN(const Stop stop, wait_stop(tid_));
    if (stop.syscall) {
      ++stops;
    } else if (stop.event == 0) {
      return failure(Code::kInternal,
                     fmt::format("{}: process {} got signal {}", what, pid_, stop.signal));
    }
  }
  FERMATA_ASSIGN(const GeneralRegisters after, get_registers(tid_));
  const long result = static_cast<long>(after.rax);
  if (result < 0 && result >= -4095) {
    return Failure(errno_status(static_cast<int>(-result),
                                fmt::format("{} in process {} under construction", what, pid_)));
  }
  return result;
}

Status RebuildRemote::enter_group_stop() {
  if (::kill(pid_, SIGSTOP) != 0) return errno_status(errno, fmt::format("stopping {}", pid_));
  // First the signal's delivery is shown to us, then, with the signal let through, the group stop.
  FERMATA_TRY(resume_thread(tid_, PTRACE_CONT));
  for (int stops = 0; stops < 8; ++stops) {
    FERMATA_ASSIGN_STATUS(const Stop stop, wait_stop(tid_));
    if (stop.event == PTRACE_EVENT_STOP && stop.signal == SIGSTOP) return Status::ok();
    const long signal = stop.event == 0 && stop.signal == SIGSTOP ? SIGSTOP : 0;
    if (::ptrace(PTRACE_CONT, tid_, nullptr, signal) != 0) break;
  }
  return {Code::kInternal, fmt::format("process {} did not enter its stop", pid_)};
}

Status RebuildRemote::die_of(int signo) {
  // A call ends in the trap of our code; in that stop a signal can be put in the trap's place
  // (ptrace(2)).
  RemoteCall nothing{SYS_getpid, {}, 0};
  FERMATA_TRY(run(std::span(&nothing, 1)));
  FERMATA_TRY(set_signal_mask(tid_, 0));
  if (::ptrace(PTRACE_CONT, tid_, nullptr, static_cast<long>(signo)) != 0) {
    return errno_status(errno, fmt::format("ending process {}", pid_));
  }
  const Result<Stop> stop = wait_stop(tid_);
  if (stop || stop.error().code() != Code::kGone) {
    return {Code::kInternal, fmt::format("process {} did not end by signal {}", pid_, signo)};
  }
  reap_tracees({tid_});  // then its parent sees it
  return Status::ok();
}

Status RebuildRemote::stop_for_registers() {
  FERMATA_TRY(interrupt(tid_));
  FERMATA_TRY(resume_thread(tid_, PTRACE_CONT));
  while (true) {
    FERMATA_ASSIGN_STATUS(const Stop stop, wait_stop(tid_));
    if (stop.event == PTRACE_EVENT_STOP) return Status::ok();
    FERMATA_TRY(resume_thread(tid_, PTRACE_CONT));
  }
}

}  // namespace fermata::engine
