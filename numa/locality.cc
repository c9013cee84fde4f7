#include "numa/locality.h"

#include <fmt/format.h>

#include <map>

#include "numa/number_list.h"

namespace fermata::numa {

double Locality::percent() const {
  return bytes == 0 ? 100.0 : 100.0 * static_cast<double>(local) / static_cast<double>(bytes);
}

uint64_t bytes_of(const image::PageRun& run) {
  return run.bytes() > 0 ? run.bytes() : run.length();
}

Result<Numbers> nodes_of(const image::PageRun& run) {
  if (run.nodes().empty()) {
    if (run.node() < 0 || run.node() >= kMaxNumber) {
      return failure(Code::kDamaged, fmt::format("NUMA node {} does not exist", run.node()));
    }
    return Numbers{run.node()};
  }
  return parse_list(run.nodes());
}

Result<Locality> locality_of(const image::Placement& placement, const Machine& machine) {
  std::map<int, Numbers> cpus;  // by process
  for (const image::ThreadPlacement& thread : placement.threads()) {
    FERMATA_ASSIGN(const Numbers set, parse_list(thread.cpuset()));
    unite(cpus[thread.vpid()], set);
  }
  Locality sum;
  for (const image::ProcessPlacement& process : placement.processes()) {
    Numbers near;
    for (const NumaNode& node : machine.nodes) {
      if (!intersection(node.cpus, cpus[process.vpid()]).empty()) near.push_back(node.number);
    }
    ProcessLocality one{process.vpid(), 0, 0};
    for (const image::RangePlacement& range : process.ranges()) {
      for (const image::PageRun& run : range.runs()) {
        FERMATA_ASSIGN(const Numbers nodes, nodes_of(run));
        const uint64_t bytes = bytes_of(run);
        one.bytes += bytes;
        one.local += bytes * intersection(nodes, near).size() / nodes.size();
      }
    }
    sum.bytes += one.bytes;
    sum.local += one.local;
    sum.processes.push_back(one);
  }
  return sum;
}

}  // namespace fermata::numa
