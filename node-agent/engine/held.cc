#include "node-agent/engine/held.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <chrono>

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
  FERMATA_ASSIGN_STATUS(thread.signal_mask, get_signal_mask(thread.tid));
  FERMATA_ASSIGN_STATUS(thread.status, read_status(process.pid, thread.tid));
  return Status::ok();
}

Status stop_all_threads(HeldProcess& process, int deadline_ms) {
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
      FERMATA_TRY(seized);
      process.threads.emplace_back().tid = tid;
      FERMATA_TRY(interrupt(tid));
      found_new = true;
    }
    for (size_t i = first_new; i < process.threads.size(); ++i) {
      const Result<Stop> stop =
          wait_stop(process.threads[i].tid, std::chrono::milliseconds(deadline_ms));
      if (!stop) return stop.error();
      if (stop->event == PTRACE_EVENT_STOP && stop->signal != SIGTRAP) process.stopped = true;
    }
  }
  return Status::ok();
}

}  // namespace

std::string HeldProcess::describe() const { return fmt::format("process {} ({})", vpid, name); }

Result<HeldProcess> hold(pid_t pid, int deadline_ms) {
  HeldProcess process;
  process.pid = pid;
  Status status = stop_all_threads(process, deadline_ms);
  if (status && process.threads.empty()) {
    status = Status(Code::kGone, fmt::format("process {} has ended", pid));
  }
  if (status) {
    const auto leader = std::find_if(process.threads.begin(), process.threads.end(),
                                     [&](const HeldThread& thread) { return thread.tid == pid; });
    if (leader == process.threads.end()) {
      status =
          Status(Code::kCannotHold,
                 fmt::format("process {}: its main thread has ended while others run on", pid));
    } else {
      std::rotate(process.threads.begin(), leader, leader + 1);
    }
  }
  for (HeldThread& thread : process.threads) {
    if (!status) break;
    status = read_thread(process, thread);
  }
  if (!status) {
    release(process);
    return Failure(std::move(status));
  }
  process.vpid = process.leader().status.vpid;
  process.name = process.leader().status.name;
  // A process without room for calls can still be let go; capture refuses it by name.
  if (Result<std::shared_ptr<InjectionSite>> site = InjectionSite::find(pid)) {
    process.site = *std::move(site);
  }
  return process;
}

Result<CaptureRemote*> remote_of(HeldProcess& process, HeldThread& thread) {
  if (!thread.remote) {
    if (!process.site) {
      FERMATA_ASSIGN(process.site, InjectionSite::find(process.pid));
    }
    FERMATA_ASSIGN(thread.remote, CaptureRemote::open(process.pid, thread.tid, process.site,
                                                      thread.registers, thread.signal_mask));
    thread.registers_changed = true;
    FERMATA_TRY_RESULT(thread.remote->ensure_scratch());
  }
  return thread.remote.get();
}

void release(HeldProcess& process) {
  if (process.site && process.site->scratch() != 0) {
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
    static_cast<void>(detach(thread.tid));
  }
  process.threads.clear();
}

}  // namespace fermata::engine
