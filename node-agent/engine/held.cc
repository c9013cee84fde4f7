#include "node-agent/engine/held.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>

#include "common/file_util.h"
#include "common/log.h"
#include "node-agent/engine/pages.h"

namespace fermata::engine {
namespace {

constexpr uint64_t kErestartNoHand = static_cast<uint64_t>(-514L);
constexpr uint64_t kUserCodeSegment64 = 0x33;

/// Calls that end with EINTR when the thread is merely stopped (signal(7), "Interruption of system
/// calls and library functions by stop signals", and what was seen on 6.1 and 6.18). Each can be
/// made again.
constexpr std::array<long, 22> kEndedByStop{
    SYS_epoll_wait,      SYS_epoll_pwait, SYS_epoll_pwait2, SYS_semop,        SYS_semtimedop,
    SYS_rt_sigtimedwait, SYS_read,        SYS_readv,        SYS_write,        SYS_writev,
    SYS_recvfrom,        SYS_recvmsg,     SYS_recvmmsg,     SYS_sendto,       SYS_sendmsg,
    SYS_sendmmsg,        SYS_accept,      SYS_accept4,      SYS_io_getevents, SYS_io_pgetevents,
    SYS_msgrcv,          SYS_futex};

bool ended_by_stop(const GeneralRegisters& registers) {
  const auto number = static_cast<long>(registers.orig_rax);
  return number >= 0 && static_cast<long>(registers.rax) == -EINTR &&
         std::find(kEndedByStop.begin(), kEndedByStop.end(), number) != kEndedByStop.end();
}

constexpr int kPtraceGetRseqConfiguration = 0x420f;

// struct rseq_cs (rseq(2)): where a restartable sequence is and where to go when it was
// interrupted.
struct RseqCriticalSection {
  uint32_t version;
  uint32_t flags;
  uint64_t start;
  uint64_t length;
  uint64_t abort;
};

// A thread that was stopped inside a restartable sequence goes on at its abort handler. The kernel
// would see to that, but not once we had it make calls elsewhere: then it only forgets the
// sequence.
Status leave_restartable_sequence(pid_t pid, HeldThread& thread) {
  if (::ptrace(static_cast<__ptrace_request>(kPtraceGetRseqConfiguration), thread.tid,
               sizeof thread.rseq, &thread.rseq) < 0) {
    return errno_status(Code::kUnsupported, errno, "reading the rseq registration (Linux 5.13)");
  }
  if (thread.rseq.pointer == 0) return Status::ok();
  FERMATA_ASSIGN_STATUS(const auto memory, ProcessMemorySource::open(pid));
  uint64_t address = 0;
  constexpr uint64_t kSectionField = 8;
  FERMATA_TRY(memory->read(thread.rseq.pointer + kSectionField,
                           std::as_writable_bytes(std::span(&address, 1))));
  if (address == 0) return Status::ok();
  RseqCriticalSection section{};
  FERMATA_TRY(memory->read(address, std::as_writable_bytes(std::span(&section, 1))));
  if (thread.registers.rip - section.start >= section.length) return Status::ok();
  thread.registers.rip = section.abort;
  return set_registers(thread.tid, thread.registers);
}

Status read_thread(HeldProcess& process, HeldThread& thread) {
  FERMATA_ASSIGN_STATUS(thread.registers, get_registers(thread.tid));
  if (thread.registers.cs != kUserCodeSegment64) {
    return {
        Code::kCannotHold,
        fmt::format("process {} runs 32-bit code: only 64-bit programs can be held", process.pid)};
  }
  if (ended_by_stop(thread.registers)) {
    thread.registers.rax = kErestartNoHand;
    FERMATA_TRY(set_registers(thread.tid, thread.registers));
  }
  FERMATA_TRY(leave_restartable_sequence(process.pid, thread));
  FERMATA_ASSIGN_STATUS(thread.signal_mask, get_signal_mask(thread.tid));
  FERMATA_ASSIGN_STATUS(thread.status, read_status(process.pid, thread.tid));
  return Status::ok();
}

bool has_ended(pid_t pid) {
  const Result<ProcStat> stat = ProcStat::read(pid);
  return !stat || stat->state() == 'Z' || stat->state() == 'X';
}

Status stop_all_threads(HeldProcess& process, int deadline_ms) {
  Status first_failure;
  // Threads may be born until all are stopped: look again until none is new.
  bool found_new = true;
  while (found_new) {
    found_new = false;
    FERMATA_ASSIGN_STATUS(const std::vector<pid_t> tids, threads_of(process.pid));
    const size_t first_new = process.threads.size();
    for (const pid_t tid : tids) {
      const bool known = std::any_of(process.threads.begin(), process.threads.end(),
                                     [&](const HeldThread& thread) { return thread.tid == tid; });
      if (known) continue;
      const Status seized = seize(tid, PTRACE_O_TRACESYSGOOD);
      if (seized.code() == Code::kGone) continue;
      if (!seized && tid == process.pid && has_ended(process.pid)) {
        FERMATA_ASSIGN_STATUS(const ProcStatus status, read_status(tid, tid));
        return {Code::kCannotHold,
                fmt::format("process {} ({}): its main thread has ended while others run on, which "
                            "cannot be rebuilt",
                            status.vpid, status.name)};
      }
      FERMATA_TRY(seized);
      process.threads.emplace_back().tid = tid;
      FERMATA_TRY(interrupt(tid));
      found_new = true;
    }
    for (size_t i = first_new; i < process.threads.size(); ++i) {
      const Result<Stop> stop =
          wait_stop(process.threads[i].tid, std::chrono::milliseconds(deadline_ms));
      if (!stop) {
        if (first_failure) first_failure = stop.error();
        continue;
      }
      process.threads[i].in_stop = true;
      if (stop->event == PTRACE_EVENT_STOP && stop->signal != SIGTRAP) process.stopped = true;
    }
  }
  return first_failure;
}

}  // namespace

bool HeldProcess::all_stopped() const {
  return std::all_of(threads.begin(), threads.end(),
                     [](const HeldThread& thread) { return thread.in_stop; });
}

std::string HeldProcess::describe() const { return fmt::format("process {} ({})", vpid, name); }

Status hold(pid_t pid, int deadline_ms, HeldProcess& process) {
  process.pid = pid;
  if (Status stopped = stop_all_threads(process, deadline_ms); !stopped) {
    // Those that did stop are to notice nothing of it when they are let go.
    for (HeldThread& thread : process.threads) {
      if (thread.in_stop) static_cast<void>(read_thread(process, thread));
    }
    return stopped;
  }
  if (process.threads.empty()) return {Code::kGone, fmt::format("process {} has ended", pid)};
  const auto leader = std::find_if(process.threads.begin(), process.threads.end(),
                                   [&](const HeldThread& thread) { return thread.tid == pid; });
  if (leader == process.threads.end()) {
    return {Code::kCannotHold,
            fmt::format("process {}: its main thread has ended while others run on", pid)};
  }
  std::rotate(process.threads.begin(), leader, leader + 1);
  for (HeldThread& thread : process.threads) FERMATA_TRY(read_thread(process, thread));
  process.vpid = process.leader().status.vpid;
  process.name = process.leader().status.name;
  // A process without room for calls can still be let go; capture refuses it by name.
  if (Result<std::shared_ptr<InjectionSite>> site = InjectionSite::find(pid)) {
    process.site = *std::move(site);
  }
  return Status::ok();
}

namespace {

/// The flags of a clone3(2) whose arguments are at `address`. 0: the process is gone.
uint64_t clone3_flags(pid_t pid, uint64_t address) {
  uint64_t flags = 0;
  const auto memory = ProcessMemorySource::open(pid);
  if (!memory || !(*memory)->read(address, std::as_writable_bytes(std::span(&flags, 1)))) return 0;
  return flags;
}

}  // namespace

bool waits_in_vfork(pid_t pid) {
  const Result<std::vector<pid_t>> tids = threads_of(pid);
  if (!tids) return false;
  for (const pid_t tid : *tids) {
    // "NR ARG0 ..." of the call the thread is in, or "running" (proc(5)).
    const Result<std::string> text = read_file(fmt::format("/proc/{}/task/{}/syscall", pid, tid));
    long number = -1;
    unsigned long first = 0;
    if (!text || std::sscanf(text->c_str(), "%ld %lx", &number, &first) != 2) continue;
    if (number == SYS_vfork || (number == SYS_clone && (first & CLONE_VFORK) != 0)) return true;
    if (number == SYS_clone3 && (clone3_flags(pid, first) & CLONE_VFORK) != 0) return true;
  }
  return false;
}

Result<CaptureRemote*> remote_of(HeldProcess& process, HeldThread& thread) {
  if (!thread.remote) {
    if (!process.site) {
      FERMATA_ASSIGN(process.site, InjectionSite::find(process.pid));
    }
    FERMATA_ASSIGN(thread.remote,
                   CaptureRemote::open(process.pid, thread.tid, process.site, thread.registers,
                                       thread.signal_mask, thread.status));
    thread.registers_changed = true;
    FERMATA_TRY_RESULT(thread.remote->ensure_scratch());
  }
  return thread.remote.get();
}

namespace {

// Only a stopped thread can be let go. One that we asked to stop and that has not yet (a vfork's
// parent, an uninterruptible call) must not be left to stop for ever later on.
void let_go(HeldThread& thread, std::vector<pid_t>& dead) {
  if (!thread.in_stop) {
    const Result<Stop> stop = wait_stop(thread.tid, std::chrono::seconds(30));
    if (!stop && stop.error().code() == Code::kTimeout) {
      log_error(fmt::format("thread {} stays attached to this process: {}", thread.tid,
                            stop.error().message()));
      return;
    }
  }
  // ESRCH: it is no stopped tracee any more, so it was killed.
  if (::ptrace(PTRACE_DETACH, thread.tid, nullptr, nullptr) != 0) dead.push_back(thread.tid);
}

}  // namespace

void release(HeldProcess& process, std::vector<pid_t>& dead) {
  // A thread still inside a call that we had it make finishes by itself, and needs the scratch map
  // for it.
  bool calls_under_way = false;
  for (HeldThread& thread : process.threads) {
    if (thread.remote && thread.remote->is_out()) {
      thread.in_stop = false;
      thread.registers_changed = false;
      calls_under_way = true;
    }
  }
  if (process.site && process.site->scratch() != 0 && !calls_under_way) {
    for (HeldThread& thread : process.threads) {
      if (thread.remote && thread.remote->remove_scratch()) break;
    }
  }
  for (HeldThread& thread : process.threads) {
    // Where the kernel can still choose between making an interrupted call again and ending it with
    // EINTR: in the thread's signal path, with the registers that the stop left.
    if (thread.registers_changed && interrupt(thread.tid) &&
        resume_thread(thread.tid, PTRACE_CONT)) {
      const Result<Stop> stop = wait_stop(thread.tid);
      if (stop && stop->event == PTRACE_EVENT_STOP) {
        static_cast<void>(set_registers(thread.tid, thread.registers));
      }
    }
    let_go(thread, dead);
  }
  process.threads.clear();
}

}  // namespace fermata::engine
