// Moves pages from their sources to the file: some threads, each with a buffer of its own, O_DIRECT
// where the file system has it. Opens nothing: the threads' credentials do not matter.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"

namespace fermata::storage {

/// Borrowed descriptors of one file.
struct PageFile {
  int fd = -1;
  int direct = -1;  ///< opened O_DIRECT; -1: none
  std::string path;
};

/// One pages dataset.
struct PageJob {
  const MemoryRegion* region = nullptr;
  uint64_t offset = 0;                         ///< of the dataset in the file
  std::vector<uint64_t>* checksums = nullptr;  ///< one for each block, to be filled
};

/// Returns when all is written or, with the first failure, all threads have ended.
Status write_all_pages(const PageFile& file, const std::vector<PageJob>& jobs, unsigned threads,
                       const std::function<void(uint64_t done, uint64_t total)>& progress);

}  // namespace fermata::storage
