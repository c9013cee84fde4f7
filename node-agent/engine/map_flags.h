// Maps of a stopped process with their flags, in a fraction of a millisecond: smaps (proc(5)) tells
// them, too, but counts every page of the process meanwhile, 12 ms a GiB. The kernel's own number
// of the flags comes from an iterator over maps; what each of its bits is called is learned from
// smaps, bit by bit. Any thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/status.h"
#include "node-agent/bpf/vma_flags.h"
#include "node-agent/engine/maps.h"

namespace fermata::engine {

/// Names of the bits, as smaps has them: in the order of the bits, one for each, but for those of
/// protection keys (show_smap_vma_flags() of fs/proc/task_mmu.c).
class FlagNames {
 public:
  /// A map's number, and what smaps said of it.
  void learn(uint64_t flags, const Map& map);
  /// False: a bit is not known.
  bool name(uint64_t flags, Map& map) const;

 private:
  static constexpr size_t kBits = 64;
  std::array<std::string, kBits> names_;
};

class MapFlags {
 public:
  /// Of this kernel; the first call, before a pod is stopped, takes some 15 ms.
  static MapFlags& of_this_kernel();

  /// As read_smaps(), of a process whose maps do not change meanwhile.
  Result<std::vector<Map>> read(pid_t pid);
  /// How often read() had to fall back on smaps.
  uint64_t slow_reads() const;

 private:
  MapFlags();
  /// What ordinary programs have, from maps of our own.
  void learn_from_own_maps();
  /// False: that cannot be told without smaps. Under the mutex, like learn().
  bool name_all(std::vector<Map>& maps, const std::vector<VmaFlags>& flags) const;
  void learn(const std::vector<Map>& maps, const std::vector<VmaFlags>& flags);

  std::unique_ptr<VmaFlagReader> reader_;  ///< null: this kernel has none
  mutable std::mutex mutex_;
  FlagNames names_;          // guarded by mutex_
  uint64_t slow_reads_ = 0;  // guarded by mutex_
};

}  // namespace fermata::engine
