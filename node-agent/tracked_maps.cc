#include "node-agent/tracked_maps.h"

#include <sys/mman.h>

#include "node-agent/engine/maps.h"

namespace fermata::node_agent {
namespace {

// Of what may be gone, so much is looked at before it is saved: to ask costs 0.6 us and 16 ns a
// page, to copy a page that is none (it reads as zeros) 1.6 us.
constexpr uint64_t kWorthAsking = 4 * kPageSize;

}  // namespace

std::vector<engine::OwnMap> own_maps_of(pid_t pid) {
  std::vector<engine::OwnMap> own;
  const Result<std::vector<engine::Map>> maps = engine::read_maps(pid);
  if (!maps) return own;
  for (const engine::Map& map : *maps) {
    const bool writable = (map.protection & PROT_WRITE) != 0;
    if (map.shared || map.name.starts_with("[v") || !writable || map.has_huge_pages()) continue;
    own.push_back({map.start, map.end, map.inode == 0, true});
  }
  return own;
}

Status add_those_there(const engine::OwnMap& map, const Extents& pages,
                       const engine::PageScanner& scanner, Extents& there) {
  for (const Extent& extent : pages) {
    if (extent.length < kWorthAsking) {
      append(there, extent.address, extent.length);
      continue;
    }
    FERMATA_TRY(
        scanner.scan(extent.address, extent.address + extent.length, backing_of(map), there));
  }
  return Status::ok();
}

}  // namespace fermata::node_agent
