// Where in a pages dataset the bytes of each address are: the extents that are here, one after the
// other. Any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "common/memory_image.h"

namespace fermata::storage {

class PageLayout {
 public:
  /// `extents` are valid (check_extents).
  explicit PageLayout(const std::vector<Extent>& extents);

  /// A run of addresses whose bytes lie together.
  struct Run {
    uint64_t address = 0;
    uint64_t length = 0;
    uint64_t position = 0;  ///< in the dataset
  };

  /// Bytes of the dataset.
  uint64_t size() const { return size_; }
  /// The run that holds byte `position` of the dataset; position < size().
  const Run& run_at_position(uint64_t position) const;
  /// The run that holds `address`; nullptr: these bytes are not here.
  const Run* run_at_address(uint64_t address) const;

 private:
  std::vector<Run> runs_;
  uint64_t size_ = 0;
};

}  // namespace fermata::storage
