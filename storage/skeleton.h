// The HDF5 side of an image: every group, dataset and attribute, with the contents of all but pages
// and checksums, whose room is allocated and left as it is. The one place that calls libhdf5; one
// thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"
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

/// A skeleton in memory: a sparse memfd as long as the image, with everything that HDF5 wrote.
struct Skeleton {
  UniqueFd memory;
  uint64_t size = 0;
  /// One for each dataset, in order, with its offset, and its checksum where the content was given.
  std::vector<IndexEntry> entries;
};

/// Made in memory because HDF5 1.10 does not survive a full disk: it crashes when a file that it
/// could not write is closed. kInternal with HDF5's own words.
Result<Skeleton> make_skeleton(const ImageHeader& header, uint64_t index_size,
                               const std::vector<SkeletonDataset>& datasets);

/// Copies it to an empty file and takes the room of the whole image, pages included. kStorage.
Status copy_skeleton(const Skeleton& skeleton, int fd, const std::string& path);

}  // namespace fermata::storage
