// The memory of a process in pieces of the size in which an image has it: counted as an image
// counts, so that no two readers need the same block of it. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"

namespace fermata::engine {

class FillUnits {
 public:
  struct Piece {
    uint64_t address = 0;
    uint64_t length = 0;
  };

  /// Of what is here of `region`, whose source is kept. `size`: of a unit, a multiple of an image's
  /// blocks.
  FillUnits(const MemoryRegion& region, uint64_t size);

  size_t count() const { return first_.size(); }
  uint64_t size() const { return size_; }
  std::span<const Piece> pieces(size_t unit) const;
  /// The unit that has the page at `address`, which is one of the pieces'.
  size_t unit_of(uint64_t address) const;
  /// Reads the pieces of a unit, one behind the other, and returns how many bytes they are.
  Result<size_t> read(size_t unit, std::byte* buffer) const;

 private:
  uint64_t size_;
  std::shared_ptr<const MemorySource> source_;
  std::vector<Piece> pieces_;  ///< ascending
  std::vector<size_t> first_;  ///< the first piece of each unit
};

/// Page-aligned memory: a source that reads a file can have the disk write into it.
struct FreeFillBuffer {
  void operator()(std::byte* buffer) const;
};
using FillBuffer = std::unique_ptr<std::byte, FreeFillBuffer>;
/// Null: there is no memory.
FillBuffer make_fill_buffer(uint64_t size);

}  // namespace fermata::engine
