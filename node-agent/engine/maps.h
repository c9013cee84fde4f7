// /proc/PID/smaps as values: what is mapped where. Any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"

namespace fermata::engine {

/// One line of /proc/PID/maps, with the flags of smaps (proc(5), "VmFlags").
struct Map {
  uint64_t start = 0;
  uint64_t end = 0;
  int protection = 0;  ///< PROT_*
  bool shared = false;
  uint64_t offset = 0;
  uint64_t device = 0;  ///< dev_t
  uint64_t inode = 0;
  std::string name;                ///< path, "[heap]", "[anon:NAME]", or empty
  int protection_key = 0;          ///< pkeys(7); 0 from read_maps()
  std::vector<std::string> flags;  ///< two-letter flags; empty from read_maps()

  bool has_flag(std::string_view flag) const;
  uint64_t length() const { return end - start; }
  /// Private anonymous memory of MAP_HUGETLB (mmap(2)): of a file that the kernel makes for it
  /// (HUGETLB_ANON_FILE of include/linux/hugetlb.h).
  bool has_huge_pages() const { return !shared && name == "/anon_hugepage (deleted)"; }
};

/// Without VmFlags: quick.
Result<std::vector<Map>> read_maps(pid_t pid);
/// With VmFlags.
Result<std::vector<Map>> read_smaps(pid_t pid);

}  // namespace fermata::engine
