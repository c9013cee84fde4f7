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
enum class View { kBytes, kText, kExtents, kChecksums, kStored };

struct SkeletonDataset {
  std::string name;
  View view = View::kBytes;
  uint64_t length = 0;  ///< bytes
  Guard guard = Guard::kWhole;
  /// length bytes, or empty: allocated, to be written at the offset.
  std::vector<std::byte> content;
  /// kStored: where its blocks are.
  std::vector<StoredBlock> stored = {};
};

/// Room for HDF5's own before compressed blocks; what does not fit goes behind them.
inline constexpr uint64_t kSkeletonRoom = 1 << 20;

/// A skeleton in memory: a sparse memfd as long as the image, with everything that HDF5 wrote.
struct Skeleton {
  UniqueFd memory;
  uint64_t size = 0;
  /// One for each dataset, in order, with its offset, and its checksum where the content was given.
  std::vector<IndexEntry> entries;
};

/// Made in memory because HDF5 1.10 does not survive a full disk: it crashes when a file that it
/// could not write is closed. `stored_area`: where compressed blocks are in the file. kInternal
/// with HDF5's own words.
Result<Skeleton> make_skeleton(const ImageHeader& header, uint64_t index_size,
                               const std::vector<SkeletonDataset>& datasets,
                               const IndexEntry* stored_area = nullptr);

/// Makes an empty file `size` bytes long and takes the room for it. kStorage.
Status take_room(int fd, uint64_t size, const std::string& path);
/// Writes what HDF5 wrote.
Status copy_skeleton(const Skeleton& skeleton, int fd, const std::string& path);

}  // namespace fermata::storage
