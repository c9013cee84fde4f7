#include "node-agent/engine/signals.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <array>
#include <cstring>
#include <vector>

namespace fermata::engine {
namespace {

constexpr int kSignals = 64;
constexpr uint64_t kMaskSize = 8;

// struct sigaction as rt_sigaction(2) takes it on x86-64.
struct KernelAction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

bool settable(int signo) { return signo != SIGKILL && signo != SIGSTOP; }

KernelAction action_of(const image::SignalAction& record) {
  return {record.handler(), record.flags(), record.restorer(), record.mask()};
}

}  // namespace

Status capture_pending(pid_t tid, bool shared, PendingSignals& out) {
  constexpr int kBatch = 16;
  std::array<siginfo_t, kBatch> found{};
  uint64_t offset = 0;
  while (true) {
    struct Request {
      uint64_t offset;
      uint32_t flags;
      int32_t count;
    };
    Request request{offset, shared ? 1U : 0U, kBatch};  // PTRACE_PEEKSIGINFO_SHARED
    const long count = ::ptrace(PTRACE_PEEKSIGINFO, tid, &request, found.data());
    if (count < 0) {
      return errno_status(errno, fmt::format("reading the pending signals of thread {}", tid));
    }
    for (long i = 0; i < count; ++i) {
      out.Add()->set_siginfo(&found[static_cast<size_t>(i)], sizeof(siginfo_t));
    }
    if (count < kBatch) return Status::ok();
    offset += static_cast<uint64_t>(count);
  }
}

Status capture_actions(const HeldProcess& process, CaptureRemote& remote, image::Process& out) {
  const uint64_t wanted =
      process.leader().status.caught | process.leader().status.ignored | 1ULL << (SIGCHLD - 1);
  const uint64_t args = remote.argument_address();
  std::vector<RemoteCall> calls;
  std::vector<int> numbers;
  for (int signo = 1; signo <= kSignals; ++signo) {
    if (!settable(signo) || (wanted >> (signo - 1) & 1) == 0) continue;
    const uint64_t place = args + numbers.size() * sizeof(KernelAction);
    calls.push_back({SYS_rt_sigaction, {static_cast<uint64_t>(signo), 0, place, kMaskSize}, 0});
    numbers.push_back(signo);
  }
  FERMATA_TRY(remote.run(calls));
  std::vector<KernelAction> actions(numbers.size());
  FERMATA_TRY(remote.read_memory(args, std::as_writable_bytes(std::span(actions))));
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (calls[i].result != 0) {
      return errno_status(static_cast<int>(-calls[i].result),
                          fmt::format("reading the disposition of signal {} of {}", numbers[i],
                                      process.describe()));
    }
    const KernelAction& action = actions[i];
    if (action.handler == 0 && action.flags == 0 && action.mask == 0) continue;
    image::SignalAction& record = *out.add_actions();
    record.set_signo(numbers[i]);
    record.set_handler(action.handler);
    record.set_flags(action.flags);
    record.set_restorer(action.restorer);
    record.set_mask(action.mask);
  }
  return Status::ok();
}

Status rebuild_actions(RebuildRemote& remote, const image::Process& process) {
  std::array<KernelAction, kSignals + 1> actions{};
  for (const image::SignalAction& record : process.actions()) {
    actions[static_cast<size_t>(record.signo())] = action_of(record);
  }
  const uint64_t args = remote.argument_address();
  FERMATA_TRY(remote.put(args, actions));
  std::vector<RemoteCall> calls;
  for (int signo = 1; signo <= kSignals; ++signo) {
    if (!settable(signo) || signo == SIGTRAP) continue;
    const uint64_t place = args + static_cast<uint64_t>(signo) * sizeof(KernelAction);
    calls.push_back({SYS_rt_sigaction, {static_cast<uint64_t>(signo), place, 0, kMaskSize}, 0});
  }
  FERMATA_TRY(remote.run(calls));
  for (const RemoteCall& one : calls) {
    if (one.result != 0) {
      return errno_status(static_cast<int>(-one.result),
                          fmt::format("setting the disposition of signal {}", one.args[0]));
    }
  }
  return Status::ok();
}

Status rebuild_trap_action(RebuildRemote& remote, const image::Process& process, uint64_t gadget) {
  for (const image::SignalAction& record : process.actions()) {
    if (record.signo() != SIGTRAP) continue;
    const uint64_t args = remote.argument_address();
    FERMATA_TRY(remote.put(args, action_of(record)));
    FERMATA_ASSIGN_STATUS([[maybe_unused]] const long set,
                          remote.call_at(gadget, "setting the disposition of SIGTRAP",
                                         SYS_rt_sigaction, {SIGTRAP, args, 0, kMaskSize}));
  }
  return Status::ok();
}

Status drop_pending(RebuildRemote& remote) {
  const uint64_t args = remote.argument_address();
  struct Arguments {
    uint64_t all;
    std::array<int64_t, 2> timeout;
  };
  FERMATA_TRY(remote.put(args, Arguments{~0ULL, {0, 0}}));
  for (int tries = 0; tries < 1024; ++tries) {
    RemoteCall take{
        SYS_rt_sigtimedwait, {args, 0, args + offsetof(Arguments, timeout), kMaskSize}, 0};
    FERMATA_TRY(remote.run(std::span(&take, 1)));
    if (take.result < 0) return Status::ok();  // EAGAIN: nothing is left
  }
  return {Code::kInternal, "signals keep coming to a process under construction"};
}

Status rebuild_pending(RebuildRemote& remote, int vpid, int vtid, const PendingSignals& signals,
                       bool shared) {
  const uint64_t args = remote.argument_address();
  for (const image::PendingSignal& record : signals) {
    siginfo_t info{};
    std::memcpy(&info, record.siginfo().data(), std::min(sizeof info, record.siginfo().size()));
    FERMATA_TRY(remote.put(args, info));
    const auto signo = static_cast<uint64_t>(info.si_signo);
    const auto process = static_cast<uint64_t>(vpid);
    // To itself a process may send any si_code (rt_sigqueueinfo(2)).
    RemoteCall queue =
        shared ? RemoteCall{SYS_rt_sigqueueinfo, {process, signo, args}, 0}
               : RemoteCall{
                     SYS_rt_tgsigqueueinfo, {process, static_cast<uint64_t>(vtid), signo, args}, 0};
    FERMATA_TRY(remote.run(std::span(&queue, 1)));
    if (queue.result != 0) {
      return errno_status(static_cast<int>(-queue.result),
                          fmt::format("queueing signal {} for process {}", signo, vpid));
    }
  }
  return Status::ok();
}

}  // namespace fermata::engine
