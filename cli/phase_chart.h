// What each phase of a set took on each node, drawn. Pure functions; names in a manifest are made
// printable.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "storage/manifest.h"

namespace fermata::cli {

/// For a terminal: each phase with its time, barrier to barrier, and a bar for each node; of many
/// nodes the slowest. Where nodes were not timed, the phases alone.
std::vector<std::string> phase_bars(const storage::Manifest& manifest, size_t width, bool utf8);

/// The same over time, as an SVG document: the whole set, and the part in which the job's cables
/// are cut.
std::string phase_svg(const storage::Manifest& manifest);

}  // namespace fermata::cli
