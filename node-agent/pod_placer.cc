#include "node-agent/pod_placer.h"

#include <fmt/format.h>

#include <cstring>

#include "common/file_util.h"
#include "numa/affinity.h"
#include "numa/topology.h"

namespace fermata::node_agent {

Result<PodPlacer> PodPlacer::plan(const image::Placement& saved, numa::Mode mode) {
  PodPlacer placer;
  if (mode == numa::Mode::kIgnore) return placer;
  FERMATA_ASSIGN(const numa::Topology here, numa::current_topology());
  FERMATA_ASSIGN(const numa::Allowed allowed, numa::allowed_here());
  FERMATA_ASSIGN(placer.plan_, numa::plan_placement(saved, here, allowed));
  placer.notes_ = placer.plan_.notes;
  return placer;
}

Status PodPlacer::make(const numa::PlannedCall& planned, engine::Remote& remote) {
  engine::RemoteCall call;
  call.number = planned.number;
  call.args = planned.args;
  if (planned.mask_argument >= 0) {
    if (planned.nodemask.size() * sizeof(uint64_t) > engine::Remote::argument_size() ||
        static_cast<size_t>(planned.mask_argument) >= call.args.size()) {
      return {Code::kInternal, "a memory policy that does not fit its buffer"};
    }
    FERMATA_TRY(
        remote.write_memory(remote.argument_address(), std::as_bytes(std::span(planned.nodemask))));
    call.args[static_cast<size_t>(planned.mask_argument)] = remote.argument_address();
  }
  FERMATA_TRY(remote.run({&call, 1}));
  if (call.result < 0) {
    notes_.push_back(fmt::format("process {}, thread {}: a memory policy was refused: {}",
                                 planned.vpid, planned.vtid,
                                 std::strerror(static_cast<int>(-call.result))));
  }
  return {};
}

Status PodPlacer::before_contents(const engine::FrozenProcess& process, engine::Remote& remote) {
  for (const numa::PlannedCall& call : plan_.before_contents) {
    if (call.vpid == process.vpid) FERMATA_TRY(make(call, remote));
  }
  return {};
}

Status PodPlacer::after_contents(const engine::FrozenProcess& process, engine::Remote& remote) {
  for (const numa::PlannedCall& call : plan_.after_contents) {
    if (call.vpid == process.vpid) FERMATA_TRY(make(call, remote));
  }
  return {};
}

Status PodPlacer::each_thread(const engine::FrozenProcess& process,
                              const engine::FrozenThread& thread, engine::Remote& remote) {
  for (const numa::PlannedCall& call : plan_.thread_policies) {
    if (call.vpid == process.vpid && call.vtid == thread.vtid) FERMATA_TRY(make(call, remote));
  }
  return {};
}

void PodPlacer::bind(const std::vector<engine::FrozenProcess>& processes) {
  for (const numa::ThreadAffinity& wanted : plan_.affinity) {
    for (const engine::FrozenProcess& process : processes) {
      if (process.vpid != wanted.vpid) continue;
      for (const engine::FrozenThread& thread : process.threads) {
        if (thread.vtid != wanted.vtid) continue;
        const Status bound = numa::apply_affinity(thread.tid, wanted.cpus);
        if (!bound) notes_.push_back(bound.message());
      }
    }
  }
}

Status PodPlacer::save(const std::filesystem::path& file) const {
  return write_file_durable(file, plan_.planned.SerializeAsString());
}

Result<image::Placement> PodPlacer::load(const std::filesystem::path& file) {
  FERMATA_ASSIGN(const std::string bytes, read_file(file));
  image::Placement planned;
  if (!planned.ParseFromString(bytes)) {
    return failure(Code::kDamaged, fmt::format("{}: is no placement", file.string()));
  }
  return planned;
}

}  // namespace fermata::node_agent
