#include "node-agent/engine/ptrace.h"

#include <elf.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <cstdio>

#include "common/file_util.h"

namespace fermata::engine {
namespace {

constexpr size_t kLargestXstate = 32768;  // AMX needs 11 KiB; room for what comes

Status thread_error(const char* what, pid_t tid) {
  const int err = errno;
  return errno_status(err == ESRCH ? Code::kGone : Code::kInternal, err,
                      fmt::format("{} of thread {}", what, tid));
}

}  // namespace

Result<GeneralRegisters> get_registers(pid_t tid) {
  GeneralRegisters registers{};
  iovec vector{&registers, sizeof registers};
  if (::ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &vector) != 0) {
    return Failure(thread_error("reading the registers", tid));
  }
  return registers;
}

Status set_registers(pid_t tid, const GeneralRegisters& registers) {
  GeneralRegisters copy = registers;
  iovec vector{&copy, sizeof copy};
  if (::ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &vector) != 0) {
    return thread_error("writing the registers", tid);
  }
  return Status::ok();
}

Result<std::vector<std::byte>> get_xstate(pid_t tid) {
  std::vector<std::byte> xstate(kLargestXstate);
  iovec vector{xstate.data(), xstate.size()};
  if (::ptrace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, &vector) != 0) {
    return Failure(thread_error("reading the extended registers", tid));
  }
  xstate.resize(vector.iov_len);
  return xstate;
}

Status set_xstate(pid_t tid, const std::vector<std::byte>& xstate) {
  std::vector<std::byte> copy = xstate;
  iovec vector{copy.data(), copy.size()};
  if (::ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &vector) != 0) {
    return thread_error("writing the extended registers", tid);
  }
  return Status::ok();
}

Result<uint64_t> get_signal_mask(pid_t tid) {
  uint64_t mask = 0;
  if (::ptrace(PTRACE_GETSIGMASK, tid, sizeof mask, &mask) != 0) {
    return Failure(thread_error("reading the signal mask", tid));
  }
  return mask;
}

Status set_signal_mask(pid_t tid, uint64_t mask) {
  if (::ptrace(PTRACE_SETSIGMASK, tid, sizeof mask, &mask) != 0) {
    return thread_error("writing the signal mask", tid);
  }
  return Status::ok();
}

Status seize(pid_t tid, unsigned long options) {
  if (::ptrace(PTRACE_SEIZE, tid, nullptr, options) != 0) {
    const int err = errno;
    if (err == ESRCH) return {Code::kGone, fmt::format("thread {} has ended", tid), err};
    return errno_status(
        Code::kPermission, err,
        fmt::format("attaching to thread {} (is a debugger or strace attached to it?)", tid));
  }
  return Status::ok();
}

Status interrupt(pid_t tid) {
  if (::ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0) {
    return thread_error("stopping", tid);
  }
  return Status::ok();
}

/// Whether a thread is on its way out of the kernel. The last thread of a killed PID 1 stays there
/// until every other process of its namespace was waited for, by us where we trace it: to wait for
/// it first is for ever.
bool is_exiting(pid_t tid) {
  constexpr unsigned long kExiting = 0x4;  // PF_EXITING, field "flags" of stat (proc(5))
  const Result<std::string> stat = read_file(fmt::format("/proc/{}/stat", tid));
  if (!stat) return true;
  const size_t end_of_name = stat->rfind(')');
  unsigned long flags = 0;
  return end_of_name != std::string::npos &&
         std::sscanf(stat->c_str() + end_of_name + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) ==
             1 &&
         (flags & kExiting) != 0;
}

/// Whether there is an end to be waited for.
bool has_ended(pid_t tid) {
  siginfo_t seen{};
  constexpr int kLookOnly = WEXITED | WNOHANG | WNOWAIT | __WALL;
  if (::waitid(P_PID, static_cast<id_t>(tid), &seen, kLookOnly) != 0 || seen.si_pid != tid) {
    return false;
  }
  // The stop of a tracee is told without WSTOPPED, too.
  return seen.si_code == CLD_EXITED || seen.si_code == CLD_KILLED || seen.si_code == CLD_DUMPED;
}

int Stop::to_pass_on() const { return event == 0 && !syscall && signal == SIGSTOP ? SIGSTOP : 0; }

Result<Stop> wait_stop(pid_t tid, std::chrono::milliseconds timeout) {
  constexpr int kSpins = 50;    // the usual stop is there within microseconds
  constexpr int kYields = 300;  // on a busy machine the tracee waits for our CPU
  constexpr int kShortNaps = 2000;
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (int polls = 0;; ++polls) {
    siginfo_t seen{};
    // Without WEXITED: an end is looked at only, never taken from whom it is for.
    if (::waitid(P_PID, static_cast<id_t>(tid), &seen, WSTOPPED | WNOHANG | __WALL) != 0) {
      const int err = errno;
      if (err == EINTR) continue;
      return Failure(errno_status(Code::kGone, err, fmt::format("waiting for thread {}", tid)));
    }
    if (seen.si_pid == tid) {
      Stop stop;
      stop.event = seen.si_status >> 8;
      stop.syscall = (seen.si_status & 0xff) == (SIGTRAP | 0x80);
      stop.signal = seen.si_status & 0x7f;
      return stop;
    }
    if (polls < kSpins) continue;
    if (polls % kSpins == 0) {
      if (has_ended(tid)) return failure(Code::kGone, fmt::format("thread {} has ended", tid));
      if (std::chrono::steady_clock::now() > deadline) {
        return failure(Code::kTimeout,
                       fmt::format("thread {} did not stop within {} ms (is it in an "
                                   "uninterruptible system call?)",
                                   tid, timeout.count()));
      }
    }
    if (polls < kYields) {
      ::sched_yield();
      continue;
    }
    if (polls % 100 == 0 && is_exiting(tid)) {
      return failure(Code::kGone, fmt::format("thread {} is ending", tid));
    }
    const timespec pause{0, polls < kShortNaps ? 10'000 : 500'000};
    ::nanosleep(&pause, nullptr);
  }
}

Status resume_thread(pid_t tid, int request, int signal) {
  if (::ptrace(static_cast<__ptrace_request>(request), tid, nullptr, signal) != 0) {
    return thread_error("resuming", tid);
  }
  return Status::ok();
}

Status detach(pid_t tid, std::vector<pid_t>& dead) {
  if (::ptrace(PTRACE_DETACH, tid, nullptr, nullptr) == 0) return Status::ok();
  if (errno != ESRCH) return thread_error("detaching from", tid);
  dead.push_back(tid);
  return Status::ok();
}

void reap_ended_tracees(std::vector<pid_t>& tids) {
  std::erase_if(tids, [](pid_t tid) {
    int status = 0;
    const pid_t got = ::waitpid(tid, &status, __WALL | WNOHANG);
    return (got == tid && !WIFSTOPPED(status)) || (got < 0 && errno == ECHILD);
  });
}

void reap_tracees(std::vector<pid_t> tids) {
  constexpr int kMostRounds = 20'000;  // ten seconds of sleep
  for (int round = 0; !tids.empty() && round < kMostRounds; ++round) {
    reap_ended_tracees(tids);
    const timespec pause{0, 500'000};
    if (!tids.empty()) ::nanosleep(&pause, nullptr);
  }
}

}  // namespace fermata::engine
