#include "node-agent/engine/twin_reader.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <ctime>
#include <fstream>

#include "common/log.h"
#include "common/memory_image.h"
#include "node-agent/engine/maps.h"
#include "node-agent/engine/ptrace.h"
#include "node-agent/engine/remote.h"

// %r12: the control block (TwinReader::Control). Sleeps on `request` until it differs from `done`,
// copies, gives back, says so, and begins again. System calls: 202, futex, with FUTEX_WAIT (0) and
// FUTEX_WAKE (1), both of memory that is shared; 28, madvise, with MADV_DONTNEED (4).
asm(R"(
    .pushsection .rodata
    .balign 16
    .globl fermata_twin_loop, fermata_twin_loop_end
fermata_twin_loop:
1:  mov 0(%r12), %edx
    cmp %edx, 4(%r12)
    jne 2f
    mov %r12, %rdi
    xor %esi, %esi
    xor %r10d, %r10d
    mov $202, %eax
    syscall
    jmp 1b
2:  mov %edx, %ebx
    mov 8(%r12), %rsi
    mov 16(%r12), %rdi
    mov 24(%r12), %rcx
    cld
    rep movsb
    mov 32(%r12), %r14
    lea 40(%r12), %r13
3:  test %r14, %r14
    jz 4f
    mov 0(%r13), %rdi
    mov 8(%r13), %rsi
    mov $4, %edx
    mov $28, %eax
    syscall
    add $16, %r13
    dec %r14
    jmp 3b
4:  mov %ebx, 4(%r12)
    lea 4(%r12), %rdi
    mov $1, %esi
    mov $1, %edx
    mov $202, %eax
    syscall
    jmp 1b
fermata_twin_loop_end:
    .popsection
)");

extern "C" {
extern const std::byte fermata_twin_loop[];
extern const std::byte fermata_twin_loop_end[];
}

namespace fermata::engine {

struct TwinReader::Control {
  std::atomic<uint32_t> request;
  std::atomic<uint32_t> done;
  uint64_t from;
  uint64_t to;
  uint64_t length;
  uint64_t count;  ///< of ranges to be given back
  struct Range {
    uint64_t address;
    uint64_t length;
  };
  static constexpr size_t kRanges = 250;
  std::array<Range, kRanges> ranges;
};

namespace {

constexpr uint64_t kAllSignals = ~0ULL;
constexpr uint64_t kSyscallLength = 2;
// Below this, waking the twin costs more than it saves.
constexpr size_t kLeast = 128U << 10;
// So much is given back in a request of its own, if none comes.
constexpr uint64_t kMuch = 1U << 20;
constexpr timespec kPatience{1, 0};
constexpr int kMostWaits = 120;

/// Calls in a twin, one by one, at the system call instruction that it slept in.
class TwinRemote final : public Remote {
 public:
  /// `gadget`: the instruction; 0: the one that it slept in.
  Status open(pid_t pid, uint64_t gadget = 0) {
    FERMATA_TRY(open_process(pid));
    FERMATA_ASSIGN_STATUS(registers_, get_registers(pid));
    gadget_ = gadget != 0 ? gadget : registers_.rip - kSyscallLength;
    std::array<std::byte, kSyscallLength> code{};
    FERMATA_TRY(read_memory(gadget_, code));
    if (code != std::array{std::byte{0x0f}, std::byte{0x05}}) {
      return {Code::kUnsupported, "the twin does not stand in a system call"};
    }
    FERMATA_TRY(set_signal_mask(pid, kAllSignals));
    registers_.orig_rax = ~0ULL;
    return Status::ok();
  }

  /// Room for the arguments of calls.
  Status make_room() {
    FERMATA_ASSIGN_STATUS(const long area, call("mmap", SYS_mmap,
                                                {0, argument_size(), PROT_READ | PROT_WRITE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS, ~0ULL, 0}));
    arguments_ = static_cast<uint64_t>(area);
    return Status::ok();
  }

  Status run(std::span<RemoteCall> calls) override {
    for (RemoteCall& one : calls) {
      GeneralRegisters registers = registers_;
      registers.rip = gadget_;
      registers.rax = static_cast<uint64_t>(one.number);
      registers.rdi = one.args[0];
      registers.rsi = one.args[1];
      registers.rdx = one.args[2];
      registers.r10 = one.args[3];
      registers.r8 = one.args[4];
      registers.r9 = one.args[5];
      FERMATA_TRY(set_registers(pid_, registers));
      for (int stops = 0; stops < 2; ++stops) {
        FERMATA_TRY(resume_thread(pid_, PTRACE_SYSCALL));
        FERMATA_ASSIGN_STATUS(const Stop stop, wait_stop(pid_));
        if (!stop.syscall) return {Code::kGone, "the twin was stopped by somebody else"};
      }
      FERMATA_ASSIGN_STATUS(const GeneralRegisters after, get_registers(pid_));
      one.result = static_cast<long>(after.rax);
    }
    return Status::ok();
  }
  uint64_t argument_address() const override { return arguments_; }

  /// Maps memory of ours. It cannot be reached by its name from another user's namespaces.
  Result<uint64_t> map(const SharedBuffer& buffer) {
    FERMATA_ASSIGN(const int fd, give_fd(buffer.fd(), -1, true));
    FERMATA_ASSIGN(const long place, call("mmap", SYS_mmap,
                                          {0, buffer.bytes().size(), PROT_READ | PROT_WRITE,
                                           MAP_SHARED, static_cast<uint64_t>(fd), 0}));
    // Whoever may look into the twin's descriptors has no use for this one.
    FERMATA_ASSIGN([[maybe_unused]] const long closed,
                   call("close", SYS_close, {static_cast<uint64_t>(fd)}));
    return static_cast<uint64_t>(place);
  }

  /// Puts the loop behind the instruction that it slept in, and lets it go.
  Status enter_loop(const std::vector<Map>& maps, uint64_t control) {
    const std::span<const std::byte> code(
        fermata_twin_loop, static_cast<size_t>(fermata_twin_loop_end - fermata_twin_loop));
    const uint64_t place = gadget_ + kSyscallLength;
    const bool fits = std::any_of(maps.begin(), maps.end(), [&](const Map& map) {
      return map.name == "[vdso]" && map.start <= gadget_ && place + code.size() <= map.end;
    });
    if (!fits) return {Code::kUnsupported, "there is no room for code in the twin"};
    FERMATA_TRY(write_memory(place, code));
    GeneralRegisters registers = registers_;
    registers.rip = place;
    registers.r12 = control;
    FERMATA_TRY(set_registers(pid_, registers));
    return resume_thread(pid_, PTRACE_CONT);
  }

 private:
  GeneralRegisters registers_{};
  uint64_t gadget_ = 0;
  uint64_t arguments_ = 0;
};

void wake(std::atomic<uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

/// Whether a process runs or sleeps: neither stopped, traced and stopped, nor dead
/// (proc_pid_stat(5)).
bool works(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos || name_end + 2 >= line.size()) return false;
  return std::string_view("RSD").find(line[name_end + 2]) != std::string_view::npos;
}

/// What of its memory a twin may give back: the job's private maps, but for those it executes in.
std::vector<GiveBack::Range> private_maps(const std::vector<Map>& maps) {
  std::vector<GiveBack::Range> ranges;
  for (const Map& map : maps) {
    if (!map.shared && !map.name.starts_with("[v")) ranges.push_back({map.start, map.end});
  }
  return ranges;
}

}  // namespace

Status unmap_in_twin(pid_t pid, uint64_t syscall, const Extents& ranges) {
  TwinRemote remote;
  FERMATA_TRY(remote.open(pid, syscall));
  for (const Extent& range : ranges) {
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const long done,
                          remote.call("munmap", SYS_munmap, {range.address, range.length}));
  }
  return Status::ok();
}

Result<std::unique_ptr<TwinReader>> TwinReader::start(pid_t pid, const SharedBuffer& buffer,
                                                      const Extents* once) {
  static_assert(sizeof(Control) <= kPageSize && offsetof(Control, ranges) == 40);
  FERMATA_ASSIGN(SharedBuffer control, SharedBuffer::make("fermata-twin", kPageSize));
  FERMATA_ASSIGN(const std::vector<Map> maps, read_maps(pid));
  TwinRemote remote;
  FERMATA_TRY_RESULT(remote.open(pid));
  FERMATA_TRY_RESULT(remote.make_room());
  FERMATA_ASSIGN(const uint64_t place, remote.map(control));
  FERMATA_ASSIGN(const uint64_t theirs, remote.map(buffer));
  FERMATA_TRY_RESULT(remote.enter_loop(maps, place));
  // Wherever its original is bound to: that one has to work there.
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(pid), kNice);

  std::vector<Range> unreadable;
  for (const Map& map : maps) {
    if ((map.protection & PROT_READ) == 0) unreadable.emplace_back(map.start, map.end);
  }
  std::unique_ptr<TwinReader> reader(
      new TwinReader(pid, std::move(control), buffer.bytes(), theirs, std::move(unreadable)));
  if (once != nullptr) {
    const std::lock_guard lock(reader->mutex_);
    reader->unneeded_.emplace(private_maps(maps), *once);
    reader->give_back();
  }
  return reader;
}

TwinReader::TwinReader(pid_t pid, SharedBuffer control, std::span<std::byte> ours, uint64_t theirs,
                       std::vector<Range> unreadable)
    : pid_(pid),
      control_memory_(std::move(control)),
      control_(*reinterpret_cast<Control*>(control_memory_.bytes().data())),
      ours_(ours),
      theirs_(theirs),
      unreadable_(std::move(unreadable)) {}

bool TwinReader::readable(uint64_t address, uint64_t length) const {
  const auto next =
      std::partition_point(unreadable_.begin(), unreadable_.end(),
                           [&](const Range& range) { return range.second <= address; });
  return next == unreadable_.end() || next->first >= address + length;
}

bool TwinReader::copy(uint64_t address, std::span<std::byte> out) {
  if (broken_ || out.size() < kLeast || out.data() < ours_.data() ||
      out.data() + out.size() > ours_.data() + ours_.size() || !readable(address, out.size())) {
    return false;
  }
  const std::lock_guard lock(mutex_);
  if (!ask(address, theirs_ + static_cast<uint64_t>(out.data() - ours_.data()), out.size())) {
    return false;
  }
  if (!unneeded_) return true;
  unneeded_->was_read(address, out.size());
  if (unneeded_->all_read()) give_back();
  return true;
}

void TwinReader::was_read(uint64_t address, uint64_t length) {
  const std::lock_guard lock(mutex_);
  if (!unneeded_) return;
  unneeded_->was_read(address, length);
  const bool much = unneeded_->bytes() >= kMuch || unneeded_->ranges() >= Control::kRanges;
  if (much || unneeded_->all_read()) give_back();
}

/// All that can go, in requests of its own. Under the lock, as is ask().
void TwinReader::give_back() {
  while (unneeded_->ranges() > 0 && ask(0, 0, 0)) {
  }
}

/// One request; false: the twin does not answer.
bool TwinReader::ask(uint64_t from, uint64_t to, uint64_t length) {
  if (broken_) return false;
  control_.from = from;
  control_.to = to;
  control_.length = length;
  control_.count = 0;
  if (unneeded_) {
    for (const GiveBack::Range& range : unneeded_->take(Control::kRanges)) {
      control_.ranges.at(control_.count++) = {range.start, range.end - range.start};
    }
  }
  const uint32_t request = control_.request.load() + 1;
  control_.request.store(request);
  wake(control_.request);
  return wait_done(request);
}

bool TwinReader::wait_done(uint32_t request) {
  int waits = 0;
  for (uint32_t done = control_.done.load(); done != request; done = control_.done.load()) {
    const long woken =
        ::syscall(SYS_futex, &control_.done, FUTEX_WAIT, done, &kPatience, nullptr, 0);
    if (woken == 0 || errno != ETIMEDOUT) continue;
    // One that has been stopped stays so: nobody but us lets a tracee go, and we do not.
    const bool stopped = !works(pid_);
    if (!stopped && ++waits < kMostWaits) continue;
    if (control_.done.load() == request) break;
    // It must not write to the buffer when it holds something else.
    if (!stopped) ::kill(pid_, SIGKILL);
    log_debug(
        fmt::format("twin {} does not copy any more: its memory is read through /proc", pid_));
    broken_ = true;
    return false;
  }
  return true;
}

}  // namespace fermata::engine
