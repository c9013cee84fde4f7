// Moves pages from their sources to the file: some threads, each with buffers of its own and writes
// under way (write_lane.h), O_DIRECT where the file system has it. Opens no file: the threads'
// credentials do not matter.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"
#include "storage/codec.h"
#include "storage/format.h"
#include "storage/image_writer.h"
#include "storage/write_lane.h"

namespace fermata::storage {

/// One pages dataset.
struct PageJob {
  const MemoryRegion* region = nullptr;
  uint64_t offset = 0;                         ///< of the dataset in the file
  std::vector<uint64_t>* checksums = nullptr;  ///< one for each block, to be filled
  std::vector<StoredBlock>* stored = nullptr;  ///< the same, of compressed pages; null: not
};

/// Where compressed blocks go: one after the other, each at a page. Any thread.
struct StoredArea {
  Compression compression = Compression::kNone;
  std::atomic<uint64_t> next{0};  ///< in the file
};

/// Returns when all is written or, with the first failure, all threads have ended.
/// `area`: for jobs that are compressed; may be null else.
Status write_all_pages(const PageFile& file, const std::vector<PageJob>& jobs,
                       const WriteOptions& options, StoredArea* area = nullptr);

}  // namespace fermata::storage
