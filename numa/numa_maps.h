// /proc/PID/numa_maps: policy and pages of each memory map (numa(7)). Pure parsing; any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fermata::numa {

struct NumaMap {
  uint64_t start = 0;
  /// MPOL_* with its flags, and its nodes. numa_maps shows the leader's policy where a map has
  /// none.
  int policy_mode = 0;
  std::vector<int> policy_nodes;
  std::map<int, uint64_t> pages;  ///< by node, in units of the map's page size
};

/// One line; nullopt when it is of an unknown form.
std::optional<NumaMap> parse_numa_maps_line(std::string_view line);
/// The whole file, ascending by start; lines of an unknown form are left out.
std::vector<NumaMap> parse_numa_maps(std::string_view text);

}  // namespace fermata::numa
