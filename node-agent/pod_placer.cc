#include "node-agent/pod_placer.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "common/file_util.h"
#include "common/log.h"
#include "common/size_parse.h"
#include "numa/affinity.h"
#include "numa/number_list.h"
#include "numa/settle.h"
#include "numa/topology.h"

namespace fermata::node_agent {
namespace {

constexpr size_t kMaskWords = 16;  // 1024 nodes: the most a kernel has (MAX_NUMNODES)
constexpr size_t kBatch = 64;
static_assert(kBatch * kMaskWords * sizeof(uint64_t) <= engine::Remote::argument_size());

}  // namespace

Result<PodPlacer> PodPlacer::plan(const image::Placement& saved, numa::Mode mode, pid_t init) {
  PodPlacer placer;
  if (mode == numa::Mode::kIgnore) return placer;
  FERMATA_ASSIGN(const numa::Topology here, numa::current_topology());
  FERMATA_ASSIGN(const numa::Allowed allowed, numa::allowed_of(init));
  FERMATA_ASSIGN(placer.plan_, numa::plan_placement(saved, here, allowed, mode));
  placer.has_nodes_ = here.numa_nodes > 1;
  placer.notes_ = placer.plan_.notes;
  if (!placer.plan_.how.empty()) {
    log_debug(
        fmt::format("CPUs and memory nodes: {}; {:.1f} % of the memory was local to its "
                    "threads, {:.1f} % is as planned",
                    placer.plan_.how, placer.plan_.before.percent(), placer.plan_.after.percent()));
  }
  return placer;
}

Status PodPlacer::make(std::span<const numa::PlannedCall* const> planned, engine::Remote& remote) {
  std::vector<engine::RemoteCall> calls;
  std::vector<std::array<uint64_t, kMaskWords>> masks(planned.size());
  for (size_t i = 0; i < planned.size(); ++i) {
    const numa::PlannedCall& one = *planned[i];
    engine::RemoteCall& call = calls.emplace_back();
    call.number = one.number;
    call.args = one.args;
    if (one.mask_argument < 0) continue;
    if (one.nodemask.size() > kMaskWords) {
      return {Code::kInternal, "a memory policy that does not fit its buffer"};
    }
    std::copy(one.nodemask.begin(), one.nodemask.end(), masks[i].begin());
    call.args.at(static_cast<size_t>(one.mask_argument)) =
        remote.argument_address() + i * sizeof(masks[i]);
  }
  FERMATA_TRY(remote.write_memory(remote.argument_address(), std::as_bytes(std::span(masks))));
  FERMATA_TRY(remote.run(calls));
  for (size_t i = 0; i < planned.size(); ++i) {
    if (calls[i].result >= 0) continue;
    ++refused_[{planned[i]->vpid, static_cast<int>(-calls[i].result)}];
  }
  return {};
}

Status PodPlacer::make_those(const std::vector<numa::PlannedCall>& calls, int vpid, int vtid,
                             engine::Remote& remote) {
  std::vector<const numa::PlannedCall*> batch;
  for (const numa::PlannedCall& call : calls) {
    if (call.vpid != vpid || call.vtid != vtid) continue;
    batch.push_back(&call);
    if (batch.size() < kBatch) continue;
    FERMATA_TRY(make(batch, remote));
    batch.clear();
  }
  return batch.empty() ? Status::ok() : make(batch, remote);
}

Status PodPlacer::before_contents(const engine::FrozenProcess& process, engine::Remote& remote) {
  return make_those(plan_.before_contents, process.vpid, process.vpid, remote);
}

Status PodPlacer::after_contents(const engine::FrozenProcess& process, engine::Remote& remote) {
  FERMATA_TRY(make_those(plan_.after_contents, process.vpid, process.vpid, remote));
  if (!has_nodes_) return {};
  FERMATA_TRY(map_shared_pages(process, remote));
  settle(process);
  return {};
}

/// Pages of shared objects are there, but not mapped yet, and only what is mapped can be moved.
Status PodPlacer::map_shared_pages(const engine::FrozenProcess& process, engine::Remote& remote) {
  std::vector<engine::RemoteCall> calls;
  for (const image::ProcessPlacement& planned : plan_.planned.processes()) {
    if (planned.vpid() != process.vpid) continue;
    for (const image::RangePlacement& range : planned.ranges()) {
      if (!range.shared()) continue;
      for (const image::PageRun& run : range.runs()) {
        calls.push_back({SYS_madvise, {run.start(), run.length(), MADV_POPULATE_READ}, 0});
      }
    }
  }
  // Linux 5.14; what cannot be mapped stays where it is.
  for (std::span<engine::RemoteCall> rest(calls); !rest.empty();) {
    const std::span<engine::RemoteCall> batch = rest.first(std::min(kBatch, rest.size()));
    FERMATA_TRY(remote.run(batch));
    rest = rest.subspan(batch.size());
  }
  return {};
}

void PodPlacer::settle(const engine::FrozenProcess& process) {
  for (const image::ProcessPlacement& planned : plan_.planned.processes()) {
    if (planned.vpid() != process.vpid) continue;
    const Result<numa::Settled> settled = numa::settle_pages(process.pid, planned);
    if (!settled) {
      notes_.push_back(settled.error().within("the placement of pages is not known").message());
    } else if (settled->left > 0) {
      notes_.push_back(
          fmt::format("process {}: {} could not be put on memory nodes {}: no room there; "
                      "they lie on others",
                      process.vpid, format_size(settled->left), numa::format_list(settled->full)));
    }
  }
}

std::function<void()> PodPlacer::settle_later(
    const std::vector<engine::FrozenProcess>& processes) const {
  if (!has_nodes_) return {};
  std::vector<std::pair<pid_t, image::ProcessPlacement>> planned;
  for (const image::ProcessPlacement& one : plan_.planned.processes()) {
    for (const engine::FrozenProcess& process : processes) {
      if (process.vpid == one.vpid()) planned.emplace_back(process.pid, one);
    }
  }
  return [planned = std::move(planned)] {
    for (const auto& [pid, placement] : planned) {
      const Result<numa::Settled> settled = numa::settle_pages(pid, placement);
      if (!settled) log_info(settled.error().message());
    }
  };
}

Status PodPlacer::each_thread(const engine::FrozenProcess& process,
                              const engine::FrozenThread& thread, engine::Remote& remote) {
  return make_those(plan_.thread_policies, process.vpid, thread.vtid, remote);
}

void PodPlacer::bind(const std::vector<engine::FrozenProcess>& processes) {
  for (const auto& [key, calls] : refused_) {
    notes_.push_back(fmt::format("process {}: {} memory policies were refused: {}", key.first,
                                 calls, std::strerror(key.second)));
  }
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
