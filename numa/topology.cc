#include "numa/topology.h"

#include <fmt/format.h>
#include <hwloc.h>
#include <hwloc/export.h>

#include <memory>

namespace fermata::numa {
namespace {

struct Destroy {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};

std::string list_of(hwloc_const_bitmap_t set) {
  char* text = nullptr;
  if (set == nullptr || hwloc_bitmap_list_asprintf(&text, set) < 0) return {};
  std::string list(text);
  free(text);  // NOLINT: hwloc hands over what malloc gave
  return list;
}

// The CPUs of every object of a type, in order.
std::string lists_of(hwloc_topology* topology, hwloc_obj_type_t type, std::string_view name,
                     bool numbered) {
  std::string text;
  hwloc_obj* object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology, type, object)) != nullptr) {
    text += numbered ? fmt::format(" {}:{}", object->os_index, list_of(object->cpuset))
                     : " " + list_of(object->cpuset);
  }
  return text.empty() ? text : fmt::format("{}{}", name, text);
}

}  // namespace

Result<Topology> current_topology() {
  hwloc_topology* raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return errno_failure(errno, "hwloc_topology_init");
  const std::unique_ptr<hwloc_topology, Destroy> topology(raw);
  hwloc_topology_set_flags(raw, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  if (hwloc_topology_load(raw) != 0)
    return errno_failure(errno, "cannot read the topology (hwloc)");

  Topology result;
  char* xml = nullptr;
  int length = 0;
  if (hwloc_topology_export_xmlbuffer(raw, &xml, &length, 0) != 0) {
    return errno_failure(errno, "cannot export the topology as XML (hwloc)");
  }
  result.xml.assign(xml, length > 0 ? static_cast<size_t>(length) - 1 : 0);  // without the NUL
  hwloc_free_xmlbuffer(raw, xml);

  for (const std::string& part : {lists_of(raw, HWLOC_OBJ_NUMANODE, "nodes", true),
                                  lists_of(raw, HWLOC_OBJ_PACKAGE, "packages", false),
                                  lists_of(raw, HWLOC_OBJ_L3CACHE, "L3", false),
                                  lists_of(raw, HWLOC_OBJ_CORE, "cores", false)}) {
    if (part.empty()) continue;
    if (!result.signature.empty()) result.signature += "; ";
    result.signature += part;
  }
  const int nodes = hwloc_get_nbobjs_by_type(raw, HWLOC_OBJ_NUMANODE);
  result.numa_nodes = nodes > 0 ? static_cast<unsigned>(nodes) : 1;
  return result;
}

}  // namespace fermata::numa
