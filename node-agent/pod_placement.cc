#include "node-agent/pod_placement.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <span>

#include "common/log.h"
#include "numa/placement.h"
#include "numa/plan.h"

namespace fermata::node_agent {
namespace {

constexpr size_t kMaskWords = 16;  // 1024 nodes: the most a kernel has (MAX_NUMNODES)

/// What get_mempolicy(2) writes.
struct Policy {
  int32_t mode = -1;
  std::array<uint64_t, kMaskWords> mask{};

  numa::Numbers nodes() const {
    numa::Numbers numbers;
    for (size_t node = 0; node < kMaskWords * 64; ++node) {
      if ((mask[node / 64] >> (node % 64) & 1) != 0) numbers.push_back(static_cast<int>(node));
    }
    return numbers;
  }
};

constexpr size_t kBatch = 128;  // as many as are made in one go
static_assert(kBatch * sizeof(Policy) <= engine::Remote::argument_size());

engine::RemoteCall ask_policy(uint64_t answer, uint64_t address, uint64_t flags) {
  engine::RemoteCall call;
  call.number = SYS_get_mempolicy;
  call.args = {answer + offsetof(Policy, mode), answer + offsetof(Policy, mask), kMaskWords * 64,
               address, flags};
  return call;
}

/// Memory policy of a thread. A call the kernel does not have (no NUMA) is "not known".
Status read_policy(engine::Remote& remote, numa::ThreadToPlace& thread) {
  engine::RemoteCall call = ask_policy(remote.argument_address(), 0, 0);
  FERMATA_TRY(remote.run({&call, 1}));
  if (call.result != 0) return {};
  Policy policy;
  FERMATA_TRY(remote.get(remote.argument_address(), policy));
  thread.policy_mode = policy.mode;
  thread.policy_nodes = policy.nodes();
  return {};
}

/// Policies that ranges have of their own: with MPOL_F_ADDR a map without one is MPOL_DEFAULT,
/// whatever the thread's is (do_get_mempolicy() of the kernel's mm/mempolicy.c).
Status read_policies(engine::Remote& remote, std::vector<numa::RangeToPlace>& ranges) {
  std::vector<Policy> answers(kBatch);
  for (std::span<numa::RangeToPlace> rest(ranges); !rest.empty();) {
    const std::span<numa::RangeToPlace> batch = rest.first(std::min(kBatch, rest.size()));
    rest = rest.subspan(batch.size());
    std::vector<engine::RemoteCall> calls;
    for (size_t i = 0; i < batch.size(); ++i) {
      calls.push_back(
          ask_policy(remote.argument_address() + i * sizeof(Policy), batch[i].start, MPOL_F_ADDR));
    }
    FERMATA_TRY(remote.run(calls));
    FERMATA_TRY(remote.read_memory(remote.argument_address(),
                                   std::as_writable_bytes(std::span(answers).first(batch.size()))));
    for (size_t i = 0; i < batch.size(); ++i) {
      if (calls[i].result != 0 || answers[i].mode == MPOL_DEFAULT) continue;
      batch[i].policy_mode = answers[i].mode;
      batch[i].policy_nodes = answers[i].nodes();
    }
  }
  return {};
}

const image::Process* find_process(const image::PodObjects& objects, int vpid) {
  const auto found =
      std::find_if(objects.processes().begin(), objects.processes().end(),
                   [&](const image::Process& process) { return process.vpid() == vpid; });
  return found == objects.processes().end() ? nullptr : &*found;
}

/// Of a map of a file pages are the system's, and a policy has no effect on them.
bool is_placed(const image::Vma& vma) {
  switch (vma.backing()) {
    case image::Vma::ANONYMOUS:
    case image::Vma::OBJECT:
      return true;
    case image::Vma::FILE:
      return !vma.shared();
    default:
      return false;
  }
}

}  // namespace

numa::PageSurvey survey_placement(const std::filesystem::path& group) {
  std::vector<pid_t> pids;
  std::ifstream processes(group / "cgroup.procs");
  for (pid_t pid = 0; processes >> pid;) pids.push_back(pid);
  const auto start = std::chrono::steady_clock::now();
  numa::PageSurvey survey = numa::survey_pages(pids);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
  log_debug(fmt::format("pages of {} processes were asked for their nodes in {:.1f} ms",
                        survey.size(), took.count()));
  return survey;
}

Result<image::Placement> record_placement(const numa::Topology& topology, engine::FrozenPod& pod,
                                          const image::PodObjects& objects,
                                          const numa::PageSurvey& survey) {
  numa::Allowed allowed;
  std::vector<numa::ProcessToPlace> processes;
  for (const engine::FrozenProcess& frozen : pod.processes()) {
    numa::ProcessToPlace process;
    process.vpid = frozen.vpid;
    process.pid = frozen.pid;
    const image::Process* recorded = find_process(objects, frozen.vpid);
    if (recorded == nullptr || recorded->zombie()) continue;
    if (frozen.vpid == 1) {
      FERMATA_ASSIGN(allowed, numa::allowed_of(frozen.pid));
    }
    for (const image::Vma& vma : recorded->vmas()) {
      if (!is_placed(vma)) continue;
      process.ranges.push_back({vma.start(), vma.end(), vma.shared(), -1, {}});
    }
    for (const engine::FrozenThread& stopped : frozen.threads) {
      numa::ThreadToPlace thread;
      thread.vtid = stopped.vtid;
      thread.tid = stopped.tid;
      FERMATA_ASSIGN(engine::Remote * remote, pod.remote(frozen.vpid, stopped.vtid));
      FERMATA_TRY_RESULT(read_policy(*remote, thread));
      if (process.threads.empty()) FERMATA_TRY_RESULT(read_policies(*remote, process.ranges));
      process.threads.push_back(std::move(thread));
    }
    processes.push_back(std::move(process));
  }
  return numa::capture_placement(topology, allowed, processes, survey);
}

}  // namespace fermata::node_agent
