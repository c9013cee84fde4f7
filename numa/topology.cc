#include "numa/topology.h"

#include <fmt/format.h>
#include <hwloc.h>
#include <hwloc/distances.h>
#include <hwloc/export.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "numa/number_list.h"

namespace fermata::numa {
namespace {

struct Destroy {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Handle = std::unique_ptr<hwloc_topology, Destroy>;

Numbers numbers_of(hwloc_const_bitmap_t set) {
  Numbers numbers;
  if (set == nullptr) return numbers;
  for (int i = hwloc_bitmap_first(set); i >= 0 && i < kMaxNumber; i = hwloc_bitmap_next(set, i)) {
    numbers.push_back(i);
  }
  return numbers;
}

std::vector<Numbers> sets_of(hwloc_topology* topology, hwloc_obj_type_t type) {
  std::vector<Numbers> sets;
  hwloc_obj* object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, type, object)) != nullptr) {
    Numbers cpus = numbers_of(object->cpuset);
    if (!cpus.empty()) sets.push_back(std::move(cpus));
  }
  std::sort(sets.begin(), sets.end());
  return sets;
}

std::vector<uint32_t> distances_of(hwloc_topology* topology, const std::vector<NumaNode>& nodes) {
  hwloc_distances_s* matrix = nullptr;
  unsigned count = 1;
  const int failed = hwloc_distances_get_by_type(topology, HWLOC_OBJ_NUMANODE, &count, &matrix,
                                                 HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0);
  if (failed != 0 || count == 0 || matrix == nullptr) return {};
  // hwloc gives them in an order of its own.
  std::vector<uint32_t> distances;
  const auto place_of = [&](int number) {
    unsigned at = 0;
    while (at < matrix->nbobjs && matrix->objs[at]->os_index != static_cast<unsigned>(number)) ++at;
    return at;
  };
  for (const NumaNode& from : nodes) {
    for (const NumaNode& to : nodes) {
      const unsigned row = place_of(from.number);
      const unsigned column = place_of(to.number);
      if (row == matrix->nbobjs || column == matrix->nbobjs) continue;
      distances.push_back(static_cast<uint32_t>(matrix->values[row * matrix->nbobjs + column]));
    }
  }
  hwloc_distances_release(topology, matrix);
  if (distances.size() != nodes.size() * nodes.size()) distances.clear();
  return distances;
}

Machine machine_of(hwloc_topology* topology) {
  Machine machine;
  hwloc_obj* object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, object)) != nullptr) {
    machine.nodes.push_back({static_cast<int>(object->os_index), numbers_of(object->cpuset),
                             object->attr->numanode.local_memory});
  }
  std::sort(machine.nodes.begin(), machine.nodes.end(),
            [](const NumaNode& left, const NumaNode& right) { return left.number < right.number; });
  machine.packages = sets_of(topology, HWLOC_OBJ_PACKAGE);
  machine.l3_caches = sets_of(topology, HWLOC_OBJ_L3CACHE);
  machine.cores = sets_of(topology, HWLOC_OBJ_CORE);
  if (machine.cores.empty()) machine.cores = sets_of(topology, HWLOC_OBJ_PU);
  machine.distances = distances_of(topology, machine.nodes);
  return machine;
}

Result<Handle> new_topology() {
  hwloc_topology* raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return errno_failure(errno, "hwloc_topology_init");
  Handle topology(raw);
  hwloc_topology_set_flags(raw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  return topology;
}

Result<Topology> read(hwloc_topology* topology) {
  Topology result;
  char* xml = nullptr;
  int length = 0;
  if (hwloc_topology_export_xmlbuffer(topology, &xml, &length, 0) != 0) {
    return errno_failure(errno, "cannot export the topology as XML (hwloc)");
  }
  result.xml.assign(xml, length > 0 ? static_cast<size_t>(length) - 1 : 0);  // without the NUL
  hwloc_free_xmlbuffer(topology, xml);
  result.machine = machine_of(topology);
  result.signature = signature_of(result.machine);
  result.numa_nodes = std::max<unsigned>(1, static_cast<unsigned>(result.machine.nodes.size()));
  return result;
}

}  // namespace

Result<Topology> current_topology() {
  FERMATA_ASSIGN(const Handle topology, new_topology());
  if (hwloc_topology_load(topology.get()) != 0)
    return errno_failure(errno, "cannot read the topology (hwloc)");
  return read(topology.get());
}

Result<Topology> described_topology(const std::string& xml_file_or_synthetic) {
  FERMATA_ASSIGN(const Handle topology, new_topology());
  std::error_code ignored;
  const bool is_file = std::filesystem::exists(xml_file_or_synthetic, ignored);
  const int set = is_file
                      ? hwloc_topology_set_xml(topology.get(), xml_file_or_synthetic.c_str())
                      : hwloc_topology_set_synthetic(topology.get(), xml_file_or_synthetic.c_str());
  if (set != 0 || hwloc_topology_load(topology.get()) != 0) {
    return failure(Code::kUsage,
                   fmt::format("{}: neither a topology in hwloc's XML (lstopo FILE.xml) nor a "
                               "description such as \"package:2 [numa] core:4 pu:1\"",
                               xml_file_or_synthetic));
  }
  return read(topology.get());
}

}  // namespace fermata::numa
