// Which maps of a process a write tracker looks at, and what of their pages there is. Any thread.
#pragma once

#include <sys/types.h>

#include <vector>

#include "common/extents.h"
#include "common/status.h"
#include "node-agent/engine/page_finder.h"
#include "node-agent/engine/pages.h"

namespace fermata::node_agent {

/// The private maps of a running process that can be written and tracked; empty when it has ended.
std::vector<engine::OwnMap> own_maps_of(pid_t pid);

inline Extents range_of(const engine::OwnMap& map) { return {{map.start, map.end - map.start}}; }

/// Adds what there is of `pages` of a map: that, and little that is no more.
Status add_those_there(const engine::OwnMap& map, const Extents& pages,
                       const engine::PageScanner& scanner, Extents& there);

}  // namespace fermata::node_agent
