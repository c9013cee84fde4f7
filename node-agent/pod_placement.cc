#include "node-agent/pod_placement.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "numa/placement.h"

namespace fermata::node_agent {
namespace {

constexpr size_t kMaskWords = 16;  // 1024 nodes: the most a kernel has (MAX_NUMNODES)

/// Memory policy of a thread. A call the kernel does not have (no NUMA) is "not known".
Status read_policy(engine::Remote& remote, numa::ThreadToPlace& thread) {
  const uint64_t mode_at = remote.argument_address();
  const uint64_t mask_at = mode_at + sizeof(uint64_t);
  engine::RemoteCall call;
  call.number = SYS_get_mempolicy;
  call.args = {mode_at, mask_at, kMaskWords * 64, 0, 0, 0};
  FERMATA_TRY(remote.run({&call, 1}));
  if (call.result != 0) return {};

  int32_t mode = -1;
  std::array<uint64_t, kMaskWords> mask{};
  FERMATA_TRY(remote.get(mode_at, mode));
  FERMATA_TRY(remote.get(mask_at, mask));
  thread.policy_mode = mode;
  for (size_t node = 0; node < kMaskWords * 64; ++node) {
    if ((mask[node / 64] >> (node % 64) & 1) != 0) {
      thread.policy_nodes.push_back(static_cast<int>(node));
    }
  }
  return {};
}

}  // namespace

Result<image::Placement> record_placement(const numa::Topology& topology, engine::FrozenPod& pod,
                                          const image::PodObjects& objects) {
  std::vector<numa::ProcessToPlace> processes;
  for (const engine::FrozenProcess& frozen : pod.processes()) {
    numa::ProcessToPlace process;
    process.vpid = frozen.vpid;
    process.pid = frozen.pid;
    const auto recorded = std::find_if(
        objects.processes().begin(), objects.processes().end(),
        [&](const image::Process& candidate) { return candidate.vpid() == frozen.vpid; });
    if (recorded == objects.processes().end() || recorded->zombie()) continue;
    for (const image::Vma& vma : recorded->vmas()) {
      process.ranges.push_back({vma.start(), vma.end()});
    }
    for (const engine::FrozenThread& stopped : frozen.threads) {
      numa::ThreadToPlace thread;
      thread.vtid = stopped.vtid;
      thread.tid = stopped.tid;
      FERMATA_ASSIGN(engine::Remote * remote, pod.remote(frozen.vpid, stopped.vtid));
      FERMATA_TRY_RESULT(read_policy(*remote, thread));
      process.threads.push_back(std::move(thread));
    }
    processes.push_back(std::move(process));
  }
  return numa::capture_placement(topology, processes);
}

}  // namespace fermata::node_agent
