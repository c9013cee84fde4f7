// How much memory a process has that is nobody else's: of a twin, what the job has written or given
// up since (/proc/PID/pagemap, bit 56: Documentation/admin-guide/mm/pagemap.rst, Linux 4.2). Any
// thread.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::engine {

class ExclusivePages {
 public:
  static Result<ExclusivePages> open(pid_t pid);
  /// Bytes of [address, address + length), whole pages; 0 where it cannot be told.
  uint64_t bytes(uint64_t address, uint64_t length) const;

 private:
  explicit ExclusivePages(UniqueFd pagemap) : pagemap_(std::move(pagemap)) {}

  UniqueFd pagemap_;
};

}  // namespace fermata::engine
