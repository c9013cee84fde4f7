// A placement drawn onto its machine: as text in the manner of lstopo, and as SVG. Pure functions;
// any thread. Numbers alone are drawn, so nothing in an image reaches a terminal or a browser as
// text.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

/// One line for each package, node, cache and core, indented, with the threads that may run there
/// (as process/thread) and, at nodes, the bytes of each process. kDamaged: the placement makes no
/// sense.
Result<std::string> picture_text(const image::Placement& placement);

/// A file of its own. `title` is escaped.
Result<std::string> picture_svg(const image::Placement& placement, std::string_view title);

}  // namespace fermata::numa
