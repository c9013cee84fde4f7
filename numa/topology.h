// The machine's topology by hwloc: its XML for the record and for tools, and the part that
// placement works with. The XML of an image is never parsed: an image is untrusted, hwloc's reader
// is not made for that. Any thread.
#pragma once

#include <string>

#include "common/status.h"
#include "numa/machine.h"

namespace fermata::numa {

struct Topology {
  std::string xml;
  Machine machine;
  std::string signature;  ///< signature_of(machine)
  unsigned numa_nodes = 1;
};

/// Of the whole machine, not only of what this process may use (or what HWLOC_SYNTHETIC says). Some
/// 10 ms: ask before the pod stands still.
Result<Topology> current_topology();

/// Another machine's, to plan for: an XML file of hwloc's (lstopo FILE.xml), else a description as
/// hwloc's synthetic ones are ("package:2 [numa] core:4 pu:1"; NAME:COUNT without a file of that
/// name). The XML comes from the caller: with more rights than the caller's it is not to be read.
/// kUsage: hwloc understands neither.
Result<Topology> described_topology(const std::string& xml_file_or_synthetic);

}  // namespace fermata::numa
