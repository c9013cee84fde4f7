// What `fermata inspect` prints. Reads nothing itself: any thread.
#pragma once

#include <string>

#include "storage/image.h"

namespace fermata::storage {

/// For programs: one JSON object, indented. Keys are only ever added.
std::string describe_json(const PodImage& image);

/// For people: header, process tree, threads, open files by kind, memory, NUMA placement, topology.
std::string describe_text(const PodImage& image);

}  // namespace fermata::storage
