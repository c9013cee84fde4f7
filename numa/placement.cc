#include "numa/placement.h"

#include <algorithm>

#include "numa/affinity.h"
#include "numa/number_list.h"

namespace fermata::numa {
namespace {

Status add_threads(const ProcessToPlace& process, image::Placement& out) {
  for (const ThreadToPlace& thread : process.threads) {
    FERMATA_ASSIGN_STATUS(const Numbers cpus, affinity_of(thread.tid));
    image::ThreadPlacement* placed = out.add_threads();
    placed->set_vpid(process.vpid);
    placed->set_vtid(thread.vtid);
    placed->set_cpuset(format_list(cpus));
    placed->set_policy_mode(thread.policy_mode);
    placed->set_policy_nodes(format_list(thread.policy_nodes));
  }
  return Status::ok();
}

void add_range(const RangeToPlace& range, const std::vector<NodeRun>& runs,
               image::ProcessPlacement& out) {
  const std::vector<NodeRun> inside = clip(runs, range.start, range.end);
  const bool own_policy = range.policy_mode > 0;
  if (!own_policy && inside.empty()) return;
  image::RangePlacement* placed = out.add_ranges();
  placed->set_start(range.start);
  placed->set_end(range.end);
  placed->set_shared(range.shared);
  placed->set_policy_mode(own_policy ? range.policy_mode : -1);
  if (own_policy) placed->set_policy_nodes(format_list(range.policy_nodes));
  for (const NodeRun& run : inside) {
    image::PageRun* record = placed->add_runs();
    record->set_start(run.start);
    record->set_length(run.length);
    record->set_node(run.nodes.front());
    if (run.nodes.size() > 1) record->set_nodes(format_list(run.nodes));
    record->set_bytes(std::min(run.bytes, run.length));
  }
}

Status add_ranges(const ProcessToPlace& process, const PageSurvey& survey, image::Placement& out) {
  if (process.ranges.empty()) return Status::ok();
  std::vector<NodeRun> asked;
  const auto known = survey.find(process.pid);
  if (known == survey.end()) {
    Result<std::vector<NodeRun>> runs = survey_process(process.pid);
    // ENOSYS: a kernel without NUMA. What was where is then no question.
    if (runs) asked = *std::move(runs);
  }
  const std::vector<NodeRun>& runs = known == survey.end() ? asked : known->second;
  image::ProcessPlacement placed;
  placed.set_vpid(process.vpid);
  for (const RangeToPlace& range : process.ranges) add_range(range, runs, placed);
  if (placed.ranges_size() > 0) *out.add_processes() = std::move(placed);
  return Status::ok();
}

}  // namespace

Result<image::Placement> capture_placement(const Topology& topology, const Allowed& allowed,
                                           const std::vector<ProcessToPlace>& processes,
                                           const PageSurvey& survey) {
  image::Placement placement;
  placement.set_numa_nodes(topology.numa_nodes);
  placement.set_topology_signature(topology.signature);
  *placement.mutable_machine() = record_of(topology.machine);
  placement.set_allowed_cpus(format_list(allowed.cpus));
  placement.set_allowed_nodes(format_list(allowed.nodes));
  for (const ProcessToPlace& process : processes) {
    FERMATA_TRY_RESULT(add_threads(process, placement));
    FERMATA_TRY_RESULT(add_ranges(process, survey, placement));
  }
  return placement;
}

}  // namespace fermata::numa
