#include "node-agent/engine/fill_units.h"

#include <algorithm>
#include <cstdlib>

namespace fermata::engine {

FillUnits::FillUnits(const MemoryRegion& region, uint64_t size)
    : size_(size), source_(region.source) {
  uint64_t position = 0;
  for (const Extent& extent : region.extents) {
    if (extent.where != Where::kHere) continue;
    for (uint64_t done = 0; done < extent.length;) {
      if (position % size_ == 0 || first_.empty()) first_.push_back(pieces_.size());
      const uint64_t length = std::min(extent.length - done, size_ - position % size_);
      pieces_.push_back({extent.address + done, length});
      done += length;
      position += length;
    }
  }
}

std::span<const FillUnits::Piece> FillUnits::pieces(size_t unit) const {
  const size_t end = unit + 1 < first_.size() ? first_[unit + 1] : pieces_.size();
  return std::span(pieces_).subspan(first_[unit], end - first_[unit]);
}

size_t FillUnits::unit_of(uint64_t address) const {
  const auto behind =
      std::upper_bound(pieces_.begin(), pieces_.end(), address,
                       [](uint64_t at, const Piece& piece) { return at < piece.address; });
  const auto piece = static_cast<size_t>(behind - pieces_.begin()) - 1;
  const auto unit = std::upper_bound(first_.begin(), first_.end(), piece);
  return static_cast<size_t>(unit - first_.begin()) - 1;
}

Result<size_t> FillUnits::read(size_t unit, std::byte* buffer) const {
  size_t filled = 0;
  for (const Piece& piece : pieces(unit)) {
    FERMATA_TRY_RESULT(source_->read(piece.address, {buffer + filled, piece.length}));
    filled += piece.length;
  }
  return filled;
}

void FreeFillBuffer::operator()(std::byte* buffer) const { std::free(buffer); }

FillBuffer make_fill_buffer(uint64_t size) {
  return FillBuffer(static_cast<std::byte*>(std::aligned_alloc(kPageSize, size)));
}

}  // namespace fermata::engine
