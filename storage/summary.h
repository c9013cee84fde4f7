// What an image amounts to, counted once for both forms of `fermata inspect`. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "storage/image.h"

namespace fermata::storage {

/// Bytes by where they are, in the order of Where.
using BytesByWhere = std::array<uint64_t, 4>;

struct ProcessSummary {
  const image::Process* process = nullptr;
  std::map<std::string, unsigned> files;  ///< open file numbers by kind: "tcp", "pipe"
  BytesByWhere memory{};
  std::map<int, uint64_t> bytes_on_node;  ///< pages placed, by NUMA node
  std::vector<const image::ThreadPlacement*> threads;
  unsigned bound_ranges = 0;  ///< with a memory policy of their own
};

struct ImageSummary {
  std::vector<ProcessSummary> processes;
  std::map<std::string, unsigned> files;  ///< open file descriptions by kind
  BytesByWhere memory{};                  ///< of everything
  BytesByWhere object_memory{};           ///< of shared objects
};

ImageSummary summarize(const PodImage& image);

/// "here", "parent", "zero", "file".
const char* where_name(Where where);
/// Name of the kind of an open file: that of the field of image::File; "unknown".
std::string file_kind(const image::File& file);

}  // namespace fermata::storage
