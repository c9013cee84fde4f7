// The HDF5 side of an image: every group, dataset and attribute, with the contents of all but pages
// and checksums, whose room is allocated and left as it is. The one place that calls libhdf5; one
// thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status.h"
#include "storage/format.h"
#include "storage/image.h"

namespace fermata::storage {

/// How an HDF5 tool shows a dataset. The bytes are the same in all.
enum class View { kBytes, kText, kExtents, kChecksums };

struct SkeletonDataset {
  std::string name;
  View view = View::kBytes;
  uint64_t length = 0;  ///< bytes
  Guard guard = Guard::kWhole;
  /// length bytes, or empty: allocated, to be written at the offset.
  std::vector<std::byte> content;
};

/// Writes `path` (it exists and is empty) and closes it. Returns one entry for each dataset, in
/// order, with its offset, and its checksum where the content was given. kStorage with HDF5's own
/// words.
Result<std::vector<IndexEntry>> write_skeleton(const std::filesystem::path& path,
                                               const ImageHeader& header, uint64_t index_size,
                                               const std::vector<SkeletonDataset>& datasets);

}  // namespace fermata::storage
