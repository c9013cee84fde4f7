// The machine's topology: hwloc's XML for the record and for tools, and a signature to compare
// machines by. The XML of an image is never parsed: an image is untrusted, hwloc's reader is not
// made for that. Any thread.
#pragma once

#include <string>

#include "common/status.h"

namespace fermata::numa {

struct Topology {
  std::string xml;
  /// "nodes 0:0-3 1:4-7; packages 0-3 4-7; L3 0-3 4-7; cores 0 1 ...": numbers of NUMA nodes with
  /// their CPUs, then the CPUs of each package, cache and core. Two machines with one signature
  /// number CPUs and nodes alike.
  std::string signature;
  unsigned numa_nodes = 1;
};

/// Of the whole machine, not only of what this process may use (or what HWLOC_SYNTHETIC says). Some
/// 10 ms: ask before the pod stands still.
Result<Topology> current_topology();

}  // namespace fermata::numa
