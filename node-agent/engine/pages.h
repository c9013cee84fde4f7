// Which pages of a process are its own, and reading them. Kernel: pagemap(5 of proc), PAGEMAP_SCAN
// from 6.7 on (Documentation/admin-guide/mm/pagemap.rst).
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <vector>

#include "common/extents.h"
#include "common/memory_image.h"
#include "common/unique_fd.h"

namespace fermata::engine {

/// Finds the pages of [start, end) that are in memory or in swap and are not unchanged pages of a
/// mapped file.
class PageScanner {
 public:
  static Result<PageScanner> open(pid_t pid);
  /// What the map is of: in anonymous memory no page is a file's.
  enum class Backing { kAnonymous, kFile };
  /// Appends their extents (kHere), joined where they touch the last one.
  Status scan(uint64_t start, uint64_t end, Backing backing, std::vector<Extent>& extents) const;

 private:
  explicit PageScanner(UniqueFd pagemap) : pagemap_(std::move(pagemap)) {}
  using Entry = std::function<void(uint64_t page, uint64_t entry)>;
  Status scan_by_reading(uint64_t start, uint64_t end, std::vector<Extent>& extents) const;
  Status add_swapped(uint64_t start, uint64_t end, std::vector<Extent>& extents) const;
  Status read_entries(uint64_t start, uint64_t end, const Entry& found) const;

  UniqueFd pagemap_;
};

/// The memory of a stopped process, through /proc/PID/mem (which copies: no page is pinned or
/// unshared).
class ProcessMemorySource : public MemorySource {
 public:
  /// `not_pinned`: is never read by process_vm_readv(2). Of huge pages (MAP_HUGETLB) one more each
  /// may not be there, and a child of the process would lose those that they share.
  static Result<std::shared_ptr<const MemorySource>> open(pid_t pid, Extents not_pinned = {});
  explicit ProcessMemorySource(pid_t pid, UniqueFd memory, Extents not_pinned)
      : pid_(pid), memory_(std::move(memory)), not_pinned_(std::move(not_pinned)) {}
  Status read(uint64_t address, std::span<std::byte> out) const override;
  /// By process_vm_readv(2), a quarter of the time. It pins the pages, and so gives the process one
  /// of its own for each that it shares with a child or parent and did not write since.
  Status read_scattered(std::span<const MemoryPiece> pieces) const override;

 private:
  Status read_pinned(std::span<const MemoryPiece> pieces) const;

  pid_t pid_;
  UniqueFd memory_;
  Extents not_pinned_;
};

/// The bytes of a file; past its end, zeros.
class FileMemorySource : public MemorySource {
 public:
  explicit FileMemorySource(UniqueFd file) : file_(std::move(file)) {}
  Status read(uint64_t address, std::span<std::byte> out) const override;

 private:
  UniqueFd file_;
};

/// Extents of a file's data, holes left out, in whole pages (lseek(2), SEEK_DATA).
Result<std::vector<Extent>> data_extents(int fd, uint64_t size);

}  // namespace fermata::engine
