#include "node-agent/engine/injection.h"

#include <elf.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "node-agent/engine/maps.h"

// The code, position independent. Entry fermata_inject_single makes the one call whose arguments
// are in the registers; fermata_inject_batch makes the calls of the table at %rbx, %rbp in number.
// The save area follows: sixteen registers, flags, signal mask, instruction pointer.
// Entry fermata_inject_twin makes a copy-on-write twin (twin.h): a go-between that shares the
// memory makes the twin, tells its PID at (%rbx) and ends; the twin gives up its files, sleeps for
// the time at (%rbp) and ends. Neither uses a stack.
// From the tail on no instruction changes a flag, and the stack is the program's own again before
// signals are let through, so a handler that runs then finds a sound frame.
asm(R"(
    .pushsection .rodata
    .balign 16
    .globl fermata_inject_single, fermata_inject_batch, fermata_inject_twin
    .globl fermata_inject_save, fermata_inject_end
fermata_inject_single:
    syscall
    jmp 3f
fermata_inject_batch:
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
2:  pushq fermata_inject_save+128(%rip)
    popfq
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
    jmp 2b
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
    .skip 152
fermata_inject_end:
    .popsection
)");

extern "C" {
extern const std::byte fermata_inject_single[];
extern const std::byte fermata_inject_batch[];
extern const std::byte fermata_inject_twin[];
extern const std::byte fermata_inject_save[];
extern const std::byte fermata_inject_end[];
}

namespace fermata::engine {
namespace {

constexpr uint64_t kAllSignals = ~0ULL;

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
                                                           uint64_t signal_mask) {
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
  return remote;
}

Status CaptureRemote::write_save_area() {
  if (!site_->code_written_) {
    FERMATA_TRY(write_memory(site_->code_, code_bytes()));
    site_->code_written_ = true;
  }
  const GeneralRegisters& r = resume_;
  const std::array<uint64_t, 19> save{r.rax, r.rbx, r.rcx,    r.rdx, r.rsi, r.rdi, r.rbp,
                                      r.rsp, r.r8,  r.r9,     r.r10, r.r11, r.r12, r.r13,
                                      r.r14, r.r15, r.eflags, mask_, r.rip};
  return put(site_->code_ + offset_of(fermata_inject_save), save);
}

// Puts the program's own state back. The mask goes first: were we to die between the two, the
// thread would still be in our code, whose end does the rest.
Status CaptureRemote::leave_code() {
  FERMATA_TRY(set_signal_mask(tid_, mask_));
  return set_registers(tid_, resume_);
}

Result<Stop> CaptureRemote::next_stop() {
  FERMATA_TRY_RESULT(resume_thread(tid_, PTRACE_SYSCALL));
  Result<Stop> stop = wait_stop(tid_);
  if (!stop) out_ = true;
  return stop;
}

Status CaptureRemote::single(RemoteCall& call) {
  FERMATA_TRY(write_save_area());
  GeneralRegisters registers = resume_;
  registers.rip = site_->code_ + offset_of(fermata_inject_single);
  registers.rax = static_cast<uint64_t>(call.number);
  registers.orig_rax = ~0ULL;
  registers.rdi = call.args[0];
  registers.rsi = call.args[1];
  registers.rdx = call.args[2];
  registers.r10 = call.args[3];
  registers.r8 = call.args[4];
  registers.r9 = call.args[5];
  FERMATA_TRY(set_registers(tid_, registers));
  FERMATA_TRY(set_signal_mask(tid_, kAllSignals));
  for (int stops = 0; stops < 2;) {
    FERMATA_ASSIGN_STATUS(const Stop stop, next_stop());
    if (stop.syscall) ++stops;
  }
  FERMATA_ASSIGN_STATUS(const GeneralRegisters after, get_registers(tid_));
  call.result = static_cast<long>(after.rax);
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
  FERMATA_TRY(write_save_area());

  GeneralRegisters registers = resume_;
  registers.rip = site_->code_ + offset_of(fermata_inject_batch);
  registers.orig_rax = ~0ULL;
  registers.rbx = address;
  registers.rbp = table.size();
  registers.rsp = site_->scratch_ + kStackTop;
  FERMATA_TRY(set_registers(tid_, registers));
  FERMATA_TRY(set_signal_mask(tid_, kAllSignals));
  for (size_t stops = 0; stops < 2 * table.size();) {
    FERMATA_ASSIGN_STATUS(const Stop stop, next_stop());
    if (!stop.syscall) continue;
    // The last result is still in the register: the code has not stored it yet.
    if (++stops % 2 == 0) {
      FERMATA_ASSIGN_STATUS(const GeneralRegisters after, get_registers(tid_));
      calls[stops / 2 - 1].result = static_cast<long>(after.rax);
    }
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
  FERMATA_TRY(write_save_area());
  GeneralRegisters registers = resume_;
  registers.rip = site_->code_ + offset_of(fermata_inject_twin);
  registers.orig_rax = ~0ULL;
  registers.rbx = answer;
  registers.rbp = answer + sizeof(int64_t);
  registers.rsp = site_->scratch_ + kStackTop;
  FERMATA_TRY(set_registers(tid_, registers));
  FERMATA_TRY(set_signal_mask(tid_, kAllSignals));
  FERMATA_ASSIGN_STATUS(const Stop at_clone, next_stop());
  if (!at_clone.syscall) return {Code::kInternal, "a stop that is no system call's"};
  return resume_thread(tid_, PTRACE_SYSCALL);
}

Result<int> CaptureRemote::end_twin() {
  constexpr int kStops = 3;  // the end of clone, beginning and end of wait4
  for (int stops = 0; stops < kStops;) {
    if (stops > 0) FERMATA_TRY_RESULT(resume_thread(tid_, PTRACE_SYSCALL));
    const Result<Stop> stop = wait_stop(tid_);
    if (!stop) {
      out_ = true;
      return Failure(stop.error());
    }
    if (stop->syscall) ++stops;
  }
  FERMATA_TRY_RESULT(leave_code());
  int64_t twin = 0;
  FERMATA_TRY_RESULT(get(site_->scratch_ + kTable, twin));
  if (twin > 0) return static_cast<int>(twin);
  return errno_failure(twin == 0 ? EAGAIN : static_cast<int>(-twin), "making a copy-on-write twin");
}

}  // namespace fermata::engine
