#include "node-agent/engine/thread_state.h"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <array>
#include <cstring>

#include "common/file_util.h"
#include "common/log.h"
#include "node-agent/engine/signals.h"

namespace fermata::engine {
namespace {

constexpr long kErestartBlock = -516;
constexpr uint64_t kErestartNoHand = static_cast<uint64_t>(-514L);

struct SchedulerRecord {  // struct sched_attr, first version (sched_setattr(2))
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};

Status capture_rseq(const HeldThread& thread, image::Thread& out) {
  if (thread.rseq.pointer == 0) return Status::ok();
  out.mutable_rseq()->set_address(thread.rseq.pointer);
  out.mutable_rseq()->set_size(thread.rseq.size);
  out.mutable_rseq()->set_signature(thread.rseq.signature);
  return Status::ok();
}

Status capture_scheduler(pid_t tid, image::Thread& out) {
  SchedulerRecord record{};
  record.size = sizeof record;
  if (::syscall(SYS_sched_getattr, tid, &record, sizeof record, 0) != 0) {
    return errno_status(errno, fmt::format("reading the scheduling of thread {}", tid));
  }
  image::SchedulerAttributes& scheduler = *out.mutable_scheduler();
  scheduler.set_policy(record.policy);
  scheduler.set_flags(record.flags);
  scheduler.set_nice(record.nice);
  scheduler.set_priority(record.priority);
  scheduler.set_runtime(record.runtime);
  scheduler.set_deadline(record.deadline);
  scheduler.set_period(record.period);
  constexpr int kIoprioWhoProcess = 1;
  const long priority = ::syscall(SYS_ioprio_get, kIoprioWhoProcess, tid);
  if (priority > 0) scheduler.set_io_priority(static_cast<int32_t>(priority));
  return Status::ok();
}

// nanosleep and clock_nanosleep write what is left to where the program asked for it, or over the
// request when both are the same address; with neither, the whole time is slept again.
Status capture_remaining(CaptureRemote& remote, const GeneralRegisters& registers,
                         image::Thread& out) {
  if (static_cast<long>(registers.rax) != kErestartBlock) return Status::ok();
  uint64_t request = 0;
  uint64_t remaining = 0;
  if (registers.orig_rax == SYS_nanosleep) {
    request = registers.rdi;
    remaining = registers.rsi;
  } else if (registers.orig_rax == SYS_clock_nanosleep) {
    request = registers.rdx;
    remaining = registers.r10;
  } else {
    return Status::ok();
  }
  std::array<int64_t, 2> left{};
  FERMATA_TRY(remote.get(remaining != 0 ? remaining : request, left));
  out.mutable_remaining()->set_sec(left[0]);
  out.mutable_remaining()->set_nsec(left[1]);
  return Status::ok();
}

/// A timed wait for a futex: its word still has the value waited for, and its timeout is one.
bool looks_like_futex_wait(CaptureRemote& remote, const GeneralRegisters& registers) {
  constexpr int64_t kSecond = 1'000'000'000;
  const uint64_t how = registers.rsi & ~uint64_t{FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME};
  uint32_t word = 0;
  std::array<int64_t, 2> timeout{};
  return (how == FUTEX_WAIT || how == FUTEX_WAIT_BITSET) && registers.rdi % sizeof word == 0 &&
         remote.get(registers.rdi, word) && word == static_cast<uint32_t>(registers.rdx) &&
         remote.get(registers.r10, timeout) && timeout[0] >= 0 && timeout[1] >= 0 &&
         timeout[1] < kSecond;
}

// A sleep, poll or timed futex wait that was interrupted before goes on as restart_syscall(2), and
// the kernel does not tell of which call. The code does: the number was loaded just before the
// syscall instruction (mov $N,%eax), as in every C library; but syscall(2) is given it, and then
// only a futex is told by its arguments. -1: it was not.
long restarted_call(CaptureRemote& remote, const GeneralRegisters& registers) {
  constexpr size_t kBack = 24;
  constexpr uint8_t kMovEax = 0xb8;
  std::array<uint8_t, kBack> code{};
  if (!remote.get(registers.rip - kBack, code)) return -1;
  for (size_t at = kBack - 2 - 5 + 1;
       at-- > 0;) {  // the nearest first; 2 bytes of syscall, 5 of mov
    if (code[at] != kMovEax) continue;
    uint32_t number = 0;
    std::memcpy(&number, &code[at + 1], sizeof number);
    for (const long known : {SYS_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex}) {
      if (number == static_cast<uint32_t>(known)) return known;
    }
  }
  if (looks_like_futex_wait(remote, registers)) return SYS_futex;
  return -1;
}

void capture_capabilities(const ProcStatus& status, image::Thread& out) {
  image::Capabilities& capabilities = *out.mutable_capabilities();
  capabilities.set_inheritable(status.cap_inheritable);
  capabilities.set_permitted(status.cap_permitted);
  capabilities.set_effective(status.cap_effective);
  capabilities.set_bounding(status.cap_bounding);
  capabilities.set_ambient(status.cap_ambient);
  capabilities.set_no_new_privileges(status.no_new_privileges);
}

}  // namespace

Status capture_thread(HeldProcess& process, HeldThread& thread, image::Thread& out) {
  FERMATA_ASSIGN_STATUS(CaptureRemote * remote, remote_of(process, thread));
  out.set_vtid(thread.status.vtid);
  out.set_name(thread.status.name);
  out.set_signal_mask(thread.signal_mask);

  const uint64_t args = remote->argument_address();
  struct Answers {
    uint64_t clear_child_tid;
    stack_t alt_stack;
    int death_signal;
  };
  FERMATA_TRY(remote->put(args, Answers{}));
  std::array<RemoteCall, 4> calls{
      RemoteCall{SYS_prctl, {PR_GET_TID_ADDRESS, args + offsetof(Answers, clear_child_tid)}, 0},
      RemoteCall{SYS_sigaltstack, {0, args + offsetof(Answers, alt_stack)}, 0},
      RemoteCall{SYS_prctl, {PR_GET_PDEATHSIG, args + offsetof(Answers, death_signal)}, 0},
      RemoteCall{SYS_prctl, {PR_GET_SECUREBITS}, 0}};
  FERMATA_TRY(remote->run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result < 0) {
      return errno_status(static_cast<int>(-one.result),
                          fmt::format("asking a thread of {} for its state (call {})",
                                      process.describe(), one.number));
    }
  }
  Answers answers{};
  FERMATA_TRY(remote->get(args, answers));
  out.set_clear_child_tid(answers.clear_child_tid);
  out.mutable_alt_stack()->set_base(reinterpret_cast<uint64_t>(answers.alt_stack.ss_sp));
  out.mutable_alt_stack()->set_flags(static_cast<uint32_t>(answers.alt_stack.ss_flags));
  out.mutable_alt_stack()->set_size(answers.alt_stack.ss_size);
  out.set_parent_death_signal(answers.death_signal);
  capture_capabilities(thread.status, out);
  out.mutable_capabilities()->set_securebits(static_cast<uint32_t>(calls[3].result));

  void* robust_head = nullptr;
  size_t robust_size = 0;
  if (::syscall(SYS_get_robust_list, thread.tid, &robust_head, &robust_size) != 0) {
    return errno_status(errno, fmt::format("get_robust_list of thread {}", thread.tid));
  }
  out.set_robust_list(reinterpret_cast<uint64_t>(robust_head));
  out.set_robust_list_size(robust_size);

  GeneralRegisters registers = thread.registers;
  if (static_cast<long>(registers.orig_rax) == SYS_restart_syscall) {
    const long number = restarted_call(*remote, registers);
    if (number >= 0) registers.orig_rax = static_cast<uint64_t>(number);
  }
  FERMATA_TRY(capture_rseq(thread, out));
  FERMATA_TRY(capture_remaining(*remote, registers, out));
  FERMATA_TRY(capture_scheduler(thread.tid, out));
  FERMATA_TRY(capture_pending(thread.tid, /*shared=*/false, *out.mutable_pending()));

  if (const Result<std::string> text =
          read_file(fmt::format("/proc/{}/task/{}/personality", process.pid, thread.tid))) {
    out.set_personality(static_cast<uint32_t>(std::strtoul(text->c_str(), nullptr, 16)));
  }
  if (const Result<std::string> text =
          read_file(fmt::format("/proc/{}/timerslack_ns", thread.tid))) {
    out.set_timer_slack_ns(std::strtoull(text->c_str(), nullptr, 10));
  }

  FERMATA_ASSIGN_STATUS(const std::vector<std::byte> xstate, get_xstate(thread.tid));
  out.mutable_registers()->set_general(&registers, sizeof registers);
  out.mutable_registers()->set_xstate(xstate.data(), xstate.size());
  return Status::ok();
}

Status rebuild_thread(RebuildRemote& remote, const image::Thread& thread) {
  const uint64_t args = remote.argument_address();
  struct Arguments {
    stack_t alt_stack;
    std::array<char, 16> name;
  };
  Arguments arguments{};
  const uint32_t stack_flags = thread.alt_stack().flags() & ~static_cast<uint32_t>(SS_ONSTACK);
  arguments.alt_stack.ss_sp = reinterpret_cast<void*>(thread.alt_stack().base());
  arguments.alt_stack.ss_flags = static_cast<int>(stack_flags);
  arguments.alt_stack.ss_size = thread.alt_stack().size();
  std::strncpy(arguments.name.data(), thread.name().c_str(), arguments.name.size() - 1);
  FERMATA_TRY(remote.put(args, arguments));

  std::vector<RemoteCall> calls{{SYS_set_tid_address, {thread.clear_child_tid()}, 0},
                                {SYS_sigaltstack, {args + offsetof(Arguments, alt_stack), 0}, 0},
                                {SYS_prctl, {PR_SET_NAME, args + offsetof(Arguments, name)}, 0},
                                {SYS_personality, {thread.personality()}, 0}};
  if (thread.robust_list() != 0) {
    calls.push_back({SYS_set_robust_list, {thread.robust_list(), thread.robust_list_size()}, 0});
  }
  if (thread.timer_slack_ns() != 0) {
    calls.push_back({SYS_prctl, {PR_SET_TIMERSLACK, thread.timer_slack_ns()}, 0});
  }
  if (thread.has_rseq()) {
    calls.push_back({SYS_rseq,
                     {thread.rseq().address(), thread.rseq().size(), 0, thread.rseq().signature()},
                     0});
  }
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result < 0) {
      return errno_status(static_cast<int>(-one.result),
                          fmt::format("rebuilding thread {} (call {})", thread.vtid(), one.number));
    }
  }
  return Status::ok();
}

Status rebuild_thread_as_user(RebuildRemote& remote, const image::Thread& thread) {
  const image::SchedulerAttributes& scheduler = thread.scheduler();
  SchedulerRecord record{};
  record.size = sizeof record;
  record.policy = scheduler.policy();
  record.flags = scheduler.flags();
  record.nice = scheduler.nice();
  record.priority = scheduler.priority();
  record.runtime = scheduler.runtime();
  record.deadline = scheduler.deadline();
  record.period = scheduler.period();
  const uint64_t args = remote.argument_address();
  FERMATA_TRY(remote.put(args, record));
  constexpr uint64_t kIoprioWhoProcess = 1;
  std::vector<RemoteCall> calls{{SYS_sched_setattr, {0, args, 0}, 0}};
  if (scheduler.policy() == SCHED_IDLE) {  // sched_setattr(2) heeds the nice value of others only
    calls.push_back(
        {SYS_setpriority, {PRIO_PROCESS, 0, static_cast<uint64_t>(scheduler.nice())}, 0});
  }
  if (scheduler.io_priority() != 0) {
    calls.push_back({SYS_ioprio_set,
                     {kIoprioWhoProcess, 0, static_cast<uint64_t>(scheduler.io_priority())},
                     0});
  }
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result < 0) {
      log_warning(fmt::format(
          "thread {}: its scheduling priority (policy {}, nice {}) cannot be had here: {}",
          thread.vtid(), scheduler.policy(), scheduler.nice(),
          std::strerror(static_cast<int>(-one.result))));
    }
  }
  // Also where it is none: PID 1 was told to end with us until now.
  FERMATA_ASSIGN_STATUS(
      [[maybe_unused]] const long set,
      remote.call("PR_SET_PDEATHSIG", SYS_prctl,
                  {PR_SET_PDEATHSIG, static_cast<uint64_t>(thread.parent_death_signal())}));
  return Status::ok();
}

namespace {

GeneralRegisters general_of(const image::Thread& thread) {
  GeneralRegisters registers{};
  std::memcpy(&registers, thread.registers().general().data(),
              std::min(sizeof registers, thread.registers().general().size()));
  return registers;
}

bool sleeps_again(const image::Thread& thread) {
  return thread.has_remaining() && static_cast<long>(general_of(thread).rax) == kErestartBlock;
}

}  // namespace

Result<std::optional<long>> rebuild_sleep(RebuildRemote& remote, const image::Thread& thread) {
  if (!sleeps_again(thread)) return std::nullopt;
  const GeneralRegisters saved = general_of(thread);
  const std::array<int64_t, 2> left{thread.remaining().sec(), thread.remaining().nsec()};
  const uint64_t args = remote.argument_address();
  FERMATA_TRY_RESULT(remote.put(args, left));
  std::array<uint64_t, 6> call_args{saved.rdi, saved.rsi, saved.rdx, saved.r10, 0, 0};
  call_args[saved.orig_rax == SYS_nanosleep ? 0 : 2] = args;
  FERMATA_ASSIGN(const long result,
                 remote.start_and_interrupt(static_cast<long>(saved.orig_rax), call_args));
  return result;
}

Status load_registers(RebuildRemote& remote, const image::Thread& thread,
                      std::optional<long> sleep) {
  FERMATA_TRY(remote.stop_for_registers());
  GeneralRegisters registers = general_of(thread);
  if (sleep && *sleep != kErestartBlock) {
    // A short sleep was over before it could be interrupted: the call has returned.
    registers.rax = static_cast<uint64_t>(*sleep);
    registers.orig_rax = ~0ULL;
  } else if (!sleep && static_cast<long>(registers.rax) == kErestartBlock) {
    // Without a restart block of ours the call is made anew from its arguments.
    registers.rax = kErestartNoHand;
  }
  const std::string& bytes = thread.registers().xstate();
  std::vector<std::byte> xstate(bytes.size());
  std::memcpy(xstate.data(), bytes.data(), bytes.size());
  FERMATA_TRY(set_xstate(remote.tid(), xstate));
  FERMATA_TRY(set_signal_mask(remote.tid(), thread.signal_mask()));
  return set_registers(remote.tid(), registers);
}

}  // namespace fermata::engine
