// Where a running job is against the plan of its restart. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

struct ProcessComparison {
  int vpid = 0;
  size_t threads = 0;
  size_t threads_in_place = 0;  ///< may run where planned, and nowhere else
  size_t new_threads = 0;       ///< begun since
  uint64_t bytes = 0;           ///< in memory that was planned
  uint64_t bytes_in_place = 0;
  uint64_t new_bytes = 0;  ///< in other memory
};

struct Comparison {
  std::vector<ProcessComparison> processes;
  ProcessComparison all;  ///< the sum
};

/// Both in the numbers of one machine. kDamaged: a list is none.
Result<Comparison> compare(const image::Placement& planned, const image::Placement& found);

}  // namespace fermata::numa
