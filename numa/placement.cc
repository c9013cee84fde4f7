#include "numa/placement.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>

#include "common/file_util.h"
#include "numa/affinity.h"
#include "numa/numa_maps.h"
#include "numa/number_list.h"
#include "numa/page_nodes.h"

namespace fermata::numa {
namespace {

constexpr size_t kMaxRuns = 4096;

Status add_threads(const ProcessToPlace& process, image::Placement& out) {
  for (const ThreadToPlace& thread : process.threads) {
    FERMATA_ASSIGN_STATUS(const std::vector<int> cpus, affinity_of(thread.tid));
    image::ThreadPlacement* placed = out.add_threads();
    placed->set_vpid(process.vpid);
    placed->set_vtid(thread.vtid);
    placed->set_cpuset(format_list(cpus));
    placed->set_policy_mode(thread.policy_mode);
    placed->set_policy_nodes(format_list(thread.policy_nodes));
  }
  return Status::ok();
}

// numa_maps shows the leader's policy for maps that have none: such a map has none, or one that
// says the same.
bool is_own_policy(const NumaMap& map, const ProcessToPlace& process) {
  if (map.policy_mode == 0) return false;
  return std::none_of(process.threads.begin(), process.threads.end(), [&](const auto& thread) {
    return thread.vtid == process.vpid && thread.policy_mode == map.policy_mode &&
           thread.policy_nodes == map.policy_nodes;
  });
}

Status add_range(const ProcessToPlace& process, const RangeToPlace& range, const NumaMap& map,
                 image::ProcessPlacement& out) {
  const bool own_policy = is_own_policy(map, process);
  if (!own_policy && map.pages.empty()) return Status::ok();
  image::RangePlacement* placed = out.add_ranges();
  placed->set_start(range.start);
  placed->set_end(range.end);
  placed->set_policy_mode(own_policy ? map.policy_mode : -1);
  if (own_policy) placed->set_policy_nodes(format_list(map.policy_nodes));
  std::vector<NodeRun> runs;
  if (map.pages.size() == 1) {
    runs.push_back({range.start, range.end - range.start, map.pages.begin()->first});
  } else if (map.pages.size() > 1) {
    FERMATA_ASSIGN_STATUS(runs, nodes_of_pages(process.pid, range.start, range.end, kMaxRuns));
  }
  for (const NodeRun& run : runs) {
    image::PageRun* record = placed->add_runs();
    record->set_start(run.start);
    record->set_length(run.length);
    record->set_node(run.node);
  }
  return Status::ok();
}

Status add_ranges(const ProcessToPlace& process, image::Placement& out) {
  if (process.ranges.empty()) return Status::ok();
  auto text = read_file(fmt::format("/proc/{}/numa_maps", process.pid));
  if (!text) {
    if (text.error().code() == Code::kNotFound)
      return Status::ok();  // a kernel without CONFIG_NUMA
    return text.error();
  }
  const std::vector<NumaMap> maps = parse_numa_maps(*text);
  image::ProcessPlacement placed;
  placed.set_vpid(process.vpid);
  for (const RangeToPlace& range : process.ranges) {
    const auto after =
        std::upper_bound(maps.begin(), maps.end(), range.start,
                         [](uint64_t start, const NumaMap& map) { return start < map.start; });
    if (after == maps.begin()) continue;
    FERMATA_TRY(add_range(process, range, *std::prev(after), placed));
  }
  if (placed.ranges_size() > 0) *out.add_processes() = std::move(placed);
  return Status::ok();
}

}  // namespace

Result<image::Placement> capture_placement(const Topology& topology,
                                           const std::vector<ProcessToPlace>& processes) {
  image::Placement placement;
  placement.set_numa_nodes(topology.numa_nodes);
  placement.set_topology_signature(topology.signature);
  for (const ProcessToPlace& process : processes) {
    FERMATA_TRY_RESULT(add_threads(process, placement));
    FERMATA_TRY_RESULT(add_ranges(process, placement));
  }
  return placement;
}

}  // namespace fermata::numa
