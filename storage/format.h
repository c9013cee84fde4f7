// The bytes of an image as docs/format.md lays them down: the index in front of the HDF5 file,
// names of datasets, records. Shared by writer and reader; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"
#include "storage/checksum.h"
#include "storage/codec.h"

namespace fermata::storage {

/// Bytes of pages covered by one checksum.
inline constexpr uint64_t kBlockSize = 1 << 20;
/// The index (HDF5's user block) is a power of two between these.
inline constexpr uint64_t kMinIndexSize = 1 << 20;
inline constexpr uint64_t kMaxIndexSize = 64 << 20;
/// No dataset but pages is longer: what a reader has to hold in memory.
inline constexpr uint64_t kMaxDatasetSize = 256 << 20;
inline constexpr uint64_t kMaxFileSize = uint64_t{1} << 62;

/// How the bytes of a dataset are guarded. Numbers are part of the format.
enum class Guard : uint32_t {
  kWhole = 0,   ///< one checksum, in the index
  kBlocks = 1,  ///< a checksum for each kBlockSize, in the dataset "checksums" beside it
  kStored = 2,  ///< compressed blocks of pages, covered one by one by "checksums" of each region
};

struct IndexEntry {
  std::string name;  ///< path of the dataset: "/objects/files"
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t checksum = 0;  ///< kWhole
  Guard guard = Guard::kWhole;
};

/// Index entry of the area that holds the compressed blocks.
inline constexpr const char* kStoredArea = "/memory/stored";

/// Where one block of compressed pages is. A block that did not compress is stored as it is.
struct StoredBlock {
  uint64_t offset = 0;  ///< in the file
  uint32_t length = 0;
  Codec codec = Codec::kNone;
};
inline constexpr size_t kStoredBlockSize = 16;
std::vector<std::byte> encode_stored(const std::vector<StoredBlock>& blocks);
/// Checks that each lies in `area` and is no longer than a block. `what` names the dataset.
Result<std::vector<StoredBlock>> decode_stored(std::span<const std::byte> bytes,
                                               const IndexEntry& area, std::string_view what);

struct Index {
  uint16_t major = 0;
  uint16_t minor = 0;
  uint64_t index_size = 0;
  uint64_t file_size = 0;
  Digest structure{};  ///< of every byte after the index that is not in a kBlocks dataset
  std::map<std::string, IndexEntry, std::less<>> entries;  ///< by name

  const IndexEntry* find(std::string_view name) const;
};

/// Size of an index of `entries` entries; 0: more than the format holds.
uint64_t index_size_for(size_t entries);

/// index.index_size bytes.
std::vector<std::byte> encode_index(const Index& index);

/// Reads and checks the index of an open file: version, checksum, and that each entry lies in the
/// file and none upon another. `path` is for sentences. Stores the digest of the file when `digest`
/// is given.
Result<Index> read_index(int fd, std::string_view path, std::string* digest);

/// "/memory/12" or "/memory/object-3".
std::string memory_group(MemoryId id);
/// The reverse; nullopt when `group` is not one.
std::optional<MemoryId> parse_memory_group(std::string_view group);

/// 24 bytes each: address, length, where, all little-endian; the last 4 bytes are zero.
inline constexpr size_t kExtentRecordSize = 24;
std::vector<std::byte> encode_extents(const std::vector<Extent>& extents);
/// `what` names the dataset in the sentence of a failure.
Result<std::vector<Extent>> decode_extents(std::span<const std::byte> bytes, std::string_view what);
/// Whole pages, ascending, not overlapping, in 64 bits. kDamaged otherwise.
Status check_extents(const std::vector<Extent>& extents, std::string_view what);

/// Reads exactly out.size() bytes: kDamaged when the file ends before, kStorage when it cannot be
/// read.
Status read_exactly(int fd, uint64_t offset, std::span<std::byte> out, std::string_view path);
/// Writes all bytes: kStorage.
Status write_exactly(int fd, uint64_t offset, std::span<const std::byte> bytes,
                     std::string_view path);
/// The digest Index::structure of an open file.
Result<Digest> structure_digest(int fd, const Index& index, std::string_view path);

}  // namespace fermata::storage
