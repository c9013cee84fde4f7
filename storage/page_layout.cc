#include "storage/page_layout.h"

#include <algorithm>

namespace fermata::storage {

PageLayout::PageLayout(const std::vector<Extent>& extents) {
  for (const Extent& extent : extents) {
    if (extent.where != Where::kHere) continue;
    if (!runs_.empty() && runs_.back().address + runs_.back().length == extent.address) {
      runs_.back().length += extent.length;
    } else {
      runs_.push_back({extent.address, extent.length, size_});
    }
    size_ += extent.length;
  }
}

const PageLayout::Run& PageLayout::run_at_position(uint64_t position) const {
  const auto after =
      std::upper_bound(runs_.begin(), runs_.end(), position,
                       [](uint64_t value, const Run& run) { return value < run.position; });
  return *std::prev(after);
}

const PageLayout::Run* PageLayout::run_at_address(uint64_t address) const {
  const auto after =
      std::upper_bound(runs_.begin(), runs_.end(), address,
                       [](uint64_t value, const Run& run) { return value < run.address; });
  if (after == runs_.begin()) return nullptr;
  const Run& run = *std::prev(after);
  return address - run.address < run.length ? &run : nullptr;
}

}  // namespace fermata::storage
