#include "node-agent/engine/injection.h"

#include <elf.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "node-agent/engine/maps.h"

// The code, position independent. Entry fermata_inject_single makes the one call whose arguments
// are in the registers and keeps its result in %rbx; fermata_inject_batch makes the calls of the
// table at %rbx, %rbp in number. Entry fermata_inject_twin makes a copy-on-write twin (twin.h): a
// go-between that shares the memory makes the twin, tells its PID at (%rbx) and ends; the twin
// gives up its files, sleeps for the time at (%rbp) and ends. Neither uses a stack.
// Each comes to 8, where the thread sends itself the signal that it ignores and lets it through:
// with a tracer it stops at fermata_inject_stopped (signal-delivery-stop of ptrace(2)), without one
// the kernel drops the signal. Then the tail, at the address that the save area has for it.
// The save area: sixteen registers, flags, signal mask, instruction pointer; arguments of
// tgkill(2); the mask that lets only that signal through; the address of the tail, which is 2 or,
// where there is no stack of ours to pass the flags over, 3. From 8 on no instruction changes a
// flag, and the stack is the program's own again before other signals are let through, so a handler
// that runs then finds a sound frame.
asm(R"(
    .pushsection .rodata
    .balign 16
    .globl fermata_inject_single, fermata_inject_batch, fermata_inject_twin
    .globl fermata_inject_stopped, fermata_inject_tail, fermata_inject_tail_without_stack
    .globl fermata_inject_save, fermata_inject_end
fermata_inject_single:
    syscall
    mov %rax, %rbx
    jmp 8f
fermata_inject_batch:
1:  test %rbp, %rbp
    jz 8f
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
8:  mov $234, %eax
    mov fermata_inject_save+152(%rip), %rdi
    mov fermata_inject_save+160(%rip), %rsi
    mov fermata_inject_save+168(%rip), %rdx
    syscall
    mov $14, %eax
    mov $2, %edi
    lea fermata_inject_save+176(%rip), %rsi
    mov $0, %edx
    mov $8, %r10d
    syscall
fermata_inject_stopped:
    jmp *fermata_inject_save+184(%rip)
fermata_inject_tail:
2:  pushq fermata_inject_save+128(%rip)
    popfq
fermata_inject_tail_without_stack:
3:  mov fermata_inject_save+56(%rip), %rsp
    mov $14, %eax
    mov $2, %edi
    lea fermata_inject_save+136(%rip), %rsi
    mov $0, %edx
    mov $8, %r10d
    syscall
    mov fermata_inject_save+0(%rip), %rax
    mov fermata_inject_save+8(%rip), %rbx
    mov fermata_inject_save+16(%rip), %rcx
    mov fermata_inject_save+24(%rip), %rdx
    mov fermata_inject_save+32(%rip), %rsi
    mov fermata_inject_save+40(%rip), %rdi
    mov fermata_inject_save+48(%rip), %rbp
    mov fermata_inject_save+64(%rip), %r8
    mov fermata_inject_save+72(%rip), %r9
    mov fermata_inject_save+80(%rip), %r10
    mov fermata_inject_save+88(%rip), %r11
    mov fermata_inject_save+96(%rip), %r12
    mov fermata_inject_save+104(%rip), %r13
    mov fermata_inject_save+112(%rip), %r14
    mov fermata_inject_save+120(%rip), %r15
    jmp *fermata_inject_save+144(%rip)
fermata_inject_twin:
    mov $56, %eax
    mov $0x4500, %edi
    xor %esi, %esi
    xor %edx, %edx
    xor %r10d, %r10d
    xor %r8d, %r8d
    syscall
    test %rax, %rax
    jz 5f
    mov $0x7fffffff, %edi
    js 4f
    mov %eax, %edi
4:  xor %esi, %esi
    mov $0x40000000, %edx
    xor %r10d, %r10d
    mov $61, %eax
    syscall
    jmp 8b
5:  mov $56, %eax
    mov $0x400, %edi
    xor %esi, %esi
    syscall
    test %rax, %rax
    jz 6f
    mov %rax, (%rbx)
    mov $60, %eax
    xor %edi, %edi
    syscall
6:  mov $436, %eax
    xor %edi, %edi
    mov $-1, %esi
    mov $2, %edx
    syscall
    mov $35, %eax
    mov %rbp, %rdi
    xor %esi, %esi
    syscall
    mov $231, %eax
    xor %edi, %edi
    syscall
    hlt
    .balign 8
fermata_inject_save:
    .skip 192
fermata_inject_end:
    .popsection
)");

extern "C" {
extern const std::byte fermata_inject_single[];
extern const std::byte fermata_inject_batch[];
extern const std::byte fermata_inject_twin[];
extern const std::byte fermata_inject_stopped[];
extern const std::byte fermata_inject_tail[];
extern const std::byte fermata_inject_tail_without_stack[];
extern const std::byte fermata_inject_save[];
extern const std::byte fermata_inject_end[];
}

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

size_t offset_of(const std::byte* label) {
  return static_cast<size_t>(label - fermata_inject_single);
}

std::span<const std::byte> code_bytes() {
  return {fermata_inject_single, offset_of(fermata_inject_save)};
}

/// Marks our scratch mapping, so that one left by a dead agent is found and used again.
constexpr std::array<uint64_t, 2> kScratchMagic{0x6574616d72656600, 0x6863746172637300};

/// End of the vDSO's ELF image inside its mapping: the bytes behind it belong to nobody.
Result<uint64_t> vdso_image_end(Remote& reader, const Map& vdso) {
  Elf64_Ehdr header{};
  FERMATA_TRY_RESULT(reader.get(vdso.start, header));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return failure(Code::kUnsupported, "the vDSO is not an ELF image");
  }
  uint64_t end = header.e_shoff + uint64_t{header.e_shnum} * header.e_shentsize;
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  FERMATA_TRY_RESULT(
      reader.read_memory(vdso.start + header.e_phoff, std::as_writable_bytes(std::span(segments))));
  for (const Elf64_Phdr& segment : segments)
    end = std::max(end, segment.p_offset + segment.p_filesz);
  return vdso.start + end;
}

/// Reads memory only; the base class has all that is needed.
class MemoryOnly : public Remote {
 public:
  Status attach(pid_t pid) { return open_process(pid); }
  Status run(std::span<RemoteCall> /*calls*/) override {
    return {Code::kInternal, "this view of a process makes no calls"};
  }
  uint64_t argument_address() const override { return 0; }
};

}  // namespace

Result<std::shared_ptr<InjectionSite>> InjectionSite::find(pid_t pid) {
  FERMATA_ASSIGN(const std::vector<Map> maps, read_maps(pid));
  MemoryOnly memory;
  FERMATA_TRY_RESULT(memory.attach(pid));
  auto site = std::make_shared<InjectionSite>();
  for (const Map& map : maps) {
    if (map.name == "[vdso]") {
      FERMATA_ASSIGN(const uint64_t end, vdso_image_end(memory, map));
      const uint64_t code = (end + 15) & ~15ULL;
      const size_t size = offset_of(fermata_inject_end);
      if (code + size > map.end) {
        return failure(Code::kUnsupported,
                       fmt::format("the vDSO of process {} leaves {} bytes where {} are needed",
                                   pid, map.end - std::min(code, map.end), size));
      }
      site->code_ = code;
      site->code_size_ = size;
    }
    // Shared, so that the kernel joins it with no neighbour.
    if (map.shared && map.name.starts_with("/dev/zero") &&
        map.length() == InjectionSite::kScratchSize) {
      std::array<uint64_t, 2> magic{};
      if (memory.get(map.start, magic) && magic == kScratchMagic) site->scratch_ = map.start;
    }
  }
  if (site->code_ == 0) {
    return failure(Code::kCannotHold,
                   fmt::format("process {} has no vDSO (vdso=0, or unmapped by the program): "
                               "calls cannot be made in it",
                               pid));
  }
  return site;
}

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
    FERMATA_TRY(write_memory(site_->code_, code_bytes()));
    site_->code_written_ = true;
  }
  const GeneralRegisters& r = resume_;
  const auto signal = static_cast<uint64_t>(signal_);
  const uint64_t open = signal_ == 0 ? kAllSignals : ~bit_of(signal_);
  const uint64_t go_on =
      site_->code_ +
      offset_of(tail == Tail::kWithStack ? fermata_inject_tail : fermata_inject_tail_without_stack);
  const std::array<uint64_t, 24> save{r.rax,
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
                                      go_on};
  return put(site_->code_ + offset_of(fermata_inject_save), save);
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
  registers.rip = site_->code_ + offset_of(entry);
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
  if (at.rip != site_->code_ + offset_of(fermata_inject_stopped)) {
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

Status CaptureRemote::single(RemoteCall& call) {
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
  return put(site_->scratch_, kScratchMagic);
}

Status CaptureRemote::remove_scratch() {
  if (site_->scratch_ == 0) return Status::ok();
  RemoteCall unmap{SYS_munmap, {site_->scratch_, InjectionSite::kScratchSize}, 0};
  FERMATA_TRY(single(unmap));
  site_->scratch_ = 0;
  return Status::ok();
}

Status CaptureRemote::chunk(std::span<RemoteCall> calls) {
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
  const uint64_t answer = site_->scratch_ + kTable;
  FERMATA_TRY(put(answer, int64_t{0}));
  FERMATA_TRY(put(answer + sizeof(int64_t), kUnlessTaken));
  FERMATA_TRY(write_save_area(Tail::kWithStack));
  GeneralRegisters registers = resume_;
  registers.rbx = answer;
  registers.rbp = answer + sizeof(int64_t);
  registers.rsp = site_->scratch_ + kStackTop;
  FERMATA_TRY(enter(fermata_inject_twin, registers));
  if (signal_ != 0) return resume_thread(tid_, PTRACE_CONT);
  FERMATA_TRY(next_call_stop());
  return resume_thread(tid_, PTRACE_SYSCALL);
}

Result<int> CaptureRemote::end_twin() {
  if (signal_ != 0) {
    FERMATA_TRY_RESULT(reach_end());
  } else {
    FERMATA_TRY_RESULT(reach_call_stop());  // the end of clone
    FERMATA_TRY_RESULT(next_call_stop());   // wait4, its beginning
    FERMATA_TRY_RESULT(next_call_stop());   // and end
  }
  FERMATA_TRY_RESULT(leave_code());
  int64_t twin = 0;
  FERMATA_TRY_RESULT(get(site_->scratch_ + kTable, twin));
  if (twin > 0) return static_cast<int>(twin);
  return errno_failure(twin == 0 ? EAGAIN : static_cast<int>(-twin), "making a copy-on-write twin");
}

}  // namespace fermata::engine
