// How a set went, in words and for programs. Pure functions.
#pragma once

#include <string>

#include "coord/coordinator.h"

namespace fermata::coord {

/// "checkpoint 17 committed: stood still 31 ms, ..." or why not.
std::string describe(const TriedSet& tried);
/// The same for programs: one JSON object. Keys are only ever added.
std::string describe_json(const TriedSet& tried);

}  // namespace fermata::coord
