#include "numa/comparison.h"

#include <algorithm>
#include <map>
#include <utility>

#include "numa/locality.h"
#include "numa/survey.h"

namespace fermata::numa {
namespace {

using Runs = std::vector<NodeRun>;

Result<std::map<int, Runs>> runs_by_process(const image::Placement& placement) {
  std::map<int, Runs> runs;
  for (const image::ProcessPlacement& process : placement.processes()) {
    for (const image::RangePlacement& range : process.ranges()) {
      for (const image::PageRun& run : range.runs()) {
        FERMATA_ASSIGN(Numbers nodes, nodes_of(run));
        runs[process.vpid()].push_back(
            {run.start(), run.length(), std::move(nodes), bytes_of(run)});
      }
    }
  }
  return runs;
}

void compare_memory(const Runs& planned, const Runs& found, ProcessComparison& out) {
  uint64_t all = 0;
  for (const NodeRun& run : found) all += run.bytes;
  for (const NodeRun& place : planned) {
    for (const NodeRun& part : clip(found, place.start, place.start + place.length)) {
      out.bytes += part.bytes;
      // Of a mixed run that strays, the part on the right nodes.
      out.bytes_in_place +=
          part.bytes * intersection(part.nodes, place.nodes).size() / part.nodes.size();
    }
  }
  out.new_bytes = all - std::min(all, out.bytes);
}

void add(const ProcessComparison& one, ProcessComparison& sum) {
  sum.threads += one.threads;
  sum.threads_in_place += one.threads_in_place;
  sum.new_threads += one.new_threads;
  sum.bytes += one.bytes;
  sum.bytes_in_place += one.bytes_in_place;
  sum.new_bytes += one.new_bytes;
}

}  // namespace

Result<Comparison> compare(const image::Placement& planned, const image::Placement& found) {
  std::map<std::pair<int, int>, std::string> cpus;
  for (const image::ThreadPlacement& thread : planned.threads()) {
    cpus[{thread.vpid(), thread.vtid()}] = thread.cpuset();
  }
  FERMATA_ASSIGN(const auto places, runs_by_process(planned));
  FERMATA_ASSIGN(const auto present, runs_by_process(found));

  std::map<int, ProcessComparison> by_process;
  for (const image::ThreadPlacement& thread : found.threads()) {
    ProcessComparison& one = by_process[thread.vpid()];
    const auto plan = cpus.find({thread.vpid(), thread.vtid()});
    if (plan == cpus.end()) {
      ++one.new_threads;
      continue;
    }
    ++one.threads;
    if (plan->second == thread.cpuset()) ++one.threads_in_place;
  }
  for (const auto& [vpid, runs] : present) {
    const auto place = places.find(vpid);
    compare_memory(place == places.end() ? Runs{} : place->second, runs, by_process[vpid]);
  }
  Comparison result;
  for (auto& [vpid, one] : by_process) {
    one.vpid = vpid;
    add(one, result.all);
    result.processes.push_back(one);
  }
  return result;
}

}  // namespace fermata::numa
