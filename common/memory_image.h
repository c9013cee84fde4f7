// Contents of memory as capture hands them to storage and storage to rebuild: extents that say
// where the bytes of an address range are, and a source that reads them. Plain types: neither
// processes nor files are known here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"

namespace fermata {

class SharedBuffer;

inline constexpr uint64_t kPageSize = 4096;
/// What one page table maps (x86-64), and what a transparent huge page is.
inline constexpr uint64_t kHugePage = 2U << 20;

/// What a run of bytes belongs to: the address space of a process, or a shared object (a memfd,
/// shared anonymous memory, a deleted file, a file of the pod's private /dev/shm).
struct MemoryId {
  enum class Kind : uint32_t { kProcess = 0, kObject = 1 };
  Kind kind = Kind::kProcess;
  uint64_t id = 0;  ///< the process's PID in its pod, or the object's id in image::PodObjects

  auto operator<=>(const MemoryId&) const = default;
};

/// Where the bytes of an extent are. Numbers are part of the image format.
enum class Where : uint32_t { kHere = 0, kParent = 1, kZero = 2, kFile = 3 };

/// A run of whole pages: [address, address + length), both multiples of kPageSize. For objects the
/// address is the offset in the object.
struct Extent {
  uint64_t address = 0;
  uint64_t length = 0;
  Where where = Where::kHere;

  bool operator==(const Extent&) const = default;
};

/// Where bytes are to be read from, and to.
struct MemoryPiece {
  uint64_t address = 0;
  std::span<std::byte> out;
};

/// Reads the bytes behind extents of kind kHere. Implementations may be read from several threads
/// at once.
class MemorySource {
 public:
  MemorySource() = default;
  MemorySource(const MemorySource&) = delete;
  MemorySource& operator=(const MemorySource&) = delete;
  virtual ~MemorySource() = default;

  /// Fills `out` with the bytes at [address, address + out.size()), which lie inside one kHere
  /// extent.
  virtual Status read(uint64_t address, std::span<std::byte> out) const = 0;
  /// Many small pieces, each as read() takes them.
  virtual Status read_scattered(std::span<const MemoryPiece> pieces) const {
    for (const MemoryPiece& piece : pieces) FERMATA_TRY(read(piece.address, piece.out));
    return Status::ok();
  }

  /// Many reads into `buffer`, which outlives them, will follow: a source that knows a shorter way
  /// there may make ready for it. On the thread that made the source, before any read; what fails
  /// is left as it is.
  virtual void prepare_reads_into(const SharedBuffer& /*buffer*/) const {}
  /// Before prepare_reads_into(): from now on nothing but `extents` will be read, and each byte of
  /// them once. A source may let go of what it has read.
  virtual void read_once(const std::vector<Extent>& /*extents*/) const {}
  /// After read_once(): how many bytes of memory reading [address, address + length) frees.
  virtual uint64_t frees(uint64_t /*address*/, uint64_t /*length*/) const { return 0; }
};

/// One address space or object: its extents in ascending order, not overlapping, and their bytes.
struct MemoryRegion {
  MemoryId id;
  std::vector<Extent> extents;
  std::shared_ptr<const MemorySource> source;

  /// Bytes of the extents that are here.
  uint64_t bytes_here() const {
    uint64_t sum = 0;
    for (const Extent& extent : extents) {
      if (extent.where == Where::kHere) sum += extent.length;
    }
    return sum;
  }
};

}  // namespace fermata
