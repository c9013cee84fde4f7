#include "numa/drawing.h"

#include <fmt/format.h>

#include <algorithm>

#include "numa/locality.h"
#include "numa/number_list.h"

namespace fermata::numa {
namespace {

const Group& smallest_around(const Group& tree, const Numbers& cpus) {
  const Group* around = &tree;
  for (bool deeper = true; deeper;) {
    deeper = false;
    for (const Group& child : around->children) {
      if (child.level == Level::kCpu || cpus.empty() || !includes(child.cpus, cpus)) continue;
      around = &child;
      deeper = true;
      break;
    }
  }
  return *around;
}

}  // namespace

std::string Drawing::threads_at(const Group& group) const {
  constexpr size_t kShown = 8;
  const auto found = threads.find(&group);
  if (found == threads.end()) return {};
  std::string text;
  for (size_t i = 0; i < std::min(kShown, found->second.size()); ++i) {
    text +=
        fmt::format("{}{}/{}", i == 0 ? "" : " ", found->second[i].first, found->second[i].second);
  }
  if (found->second.size() > kShown) {
    text += fmt::format(" and {} more", found->second.size() - kShown);
  }
  return text;
}

Status draw(const image::Placement& placement, Drawing& drawing) {
  FERMATA_ASSIGN_STATUS(drawing.machine, machine_of(placement.machine()));
  drawing.tree = tree_of(drawing.machine);
  FERMATA_ASSIGN_STATUS(drawing.allowed_cpus, parse_list(placement.allowed_cpus()));
  for (const NumaNode& node : drawing.machine.nodes) drawing.size[node.number] = node.bytes;
  for (const image::ThreadPlacement& thread : placement.threads()) {
    FERMATA_ASSIGN_STATUS(const Numbers cpus, parse_list(thread.cpuset()));
    drawing.threads[&smallest_around(drawing.tree, cpus)].emplace_back(thread.vpid(),
                                                                       thread.vtid());
  }
  for (const image::ProcessPlacement& process : placement.processes()) {
    for (const image::RangePlacement& range : process.ranges()) {
      for (const image::PageRun& run : range.runs()) {
        FERMATA_ASSIGN_STATUS(const Numbers nodes, nodes_of(run));
        for (const int node : nodes) {
          drawing.bytes[node][process.vpid()] += bytes_of(run) / nodes.size();
        }
      }
    }
  }
  return {};
}

}  // namespace fermata::numa
