// The kernel's flags of each map of a process, as a number: some microseconds, where smaps
// (proc(5)) counts every page for them. What a bit means is the kernel's own affair.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "common/status.h"

namespace fermata {

struct VmaFlags {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t flags = 0;
};

/// Any thread.
class VmaFlagReader {
 public:
  VmaFlagReader(const VmaFlagReader&) = delete;
  VmaFlagReader& operator=(const VmaFlagReader&) = delete;
  virtual ~VmaFlagReader() = default;

  /// Loads the iterator, which takes some 15 ms. kUnsupported: this kernel has none for one process
  /// (Linux 6.1, with BTF); kPermission: no CAP_BPF and CAP_PERFMON.
  static Result<std::unique_ptr<VmaFlagReader>> load();

  /// All maps of a process, ascending.
  virtual Result<std::vector<VmaFlags>> read(pid_t pid) const = 0;

 protected:
  VmaFlagReader() = default;
};

}  // namespace fermata
