// The pages of one region, read from its image. Verifies each block with each read of the file. Any
// thread.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/memory_image.h"
#include "common/unique_fd.h"
#include "storage/format.h"
#include "storage/page_layout.h"

namespace fermata::storage {

/// An image that is open for reading; shared by its sources.
struct OpenImage {
  UniqueFd fd;
  UniqueFd direct;  ///< the same file, O_DIRECT; not valid where the file system has none
  std::string path;
};

class FileSource : public MemorySource {
 public:
  /// `offset`: of the pages dataset `name`, whose length is that of `layout`; `checksums`: one for
  /// each block.
  FileSource(std::shared_ptr<const OpenImage> file, std::string name, uint64_t offset,
             PageLayout layout, std::vector<uint64_t> checksums);
  /// `stored`: one for each block, checked (decode_stored).
  FileSource(std::shared_ptr<const OpenImage> file, std::string name,
             std::vector<StoredBlock> stored, PageLayout layout, std::vector<uint64_t> checksums);
  ~FileSource() override;

  Status read(uint64_t address, std::span<std::byte> out) const override;

  /// Bytes of the dataset at `position`, to the end of `out`, which is one whole block.
  Status read_block(uint64_t block, std::span<std::byte> out) const;
  uint64_t size() const { return layout_.size(); }

 private:
  struct CachedBlock;
  /// A block that is read in parts, from a small cache: small extents lie many to a block.
  Result<std::shared_ptr<const CachedBlock>> cached(uint64_t block) const;
  uint64_t block_length(uint64_t block) const;
  /// Past the page cache where `out` allows it: pages are read once, and the job needs the memory.
  Status read_file(uint64_t offset, std::span<std::byte> out) const;
  /// The same of a block that is stored compressed.
  Status read_stored(uint64_t block, std::span<std::byte> out) const;
  Status check(uint64_t block, std::span<const std::byte> bytes) const;

  std::shared_ptr<const OpenImage> file_;
  std::string name_;
  uint64_t offset_;
  PageLayout layout_;
  std::vector<uint64_t> checksums_;
  std::vector<StoredBlock> stored_;  // of compressed pages
  mutable std::mutex mutex_;         // of the two below
  mutable std::array<std::shared_ptr<const CachedBlock>, 8> cache_;
  mutable size_t oldest_ = 0;
};

}  // namespace fermata::storage
