#include "storage/unit_order.h"

namespace fermata::storage {
namespace {

// To ask for one costs a hundredth of writing it.
constexpr unsigned kLooked = 64;
// Where the best of them is little better than all, one is as good as the other: so many are told
// in their order then.
constexpr unsigned kMuchMore = 4;
constexpr unsigned kUnasked = 32;

}  // namespace

std::optional<uint64_t> UnitOrder::first_left() {
  while (first_ < told_.size() && told_[first_]) ++first_;
  if (first_ == told_.size()) return std::nullopt;
  return first_;
}

std::optional<uint64_t> UnitOrder::next() {
  const std::lock_guard lock(mutex_);
  const std::optional<uint64_t> unit = first_left();
  if (unit) told_[*unit] = true;
  return unit;
}

std::optional<uint64_t> UnitOrder::next(const std::function<uint64_t(uint64_t unit)>& frees,
                                        uint64_t enough) {
  const std::lock_guard lock(mutex_);
  std::optional<uint64_t> best = first_left();
  if (!best) return best;
  uint64_t most = 0;
  uint64_t sum = 0;
  uint64_t at = cursor_;
  if (unasked_ > 0) {
    --unasked_;
    told_[*best] = true;
    return best;
  }
  unsigned looked = 0;
  for (uint64_t steps = 0; steps < told_.size() && looked < kLooked && most < enough; ++steps) {
    if (at >= told_.size()) at = first_;
    const uint64_t unit = at++;
    if (told_[unit]) continue;
    ++looked;
    const uint64_t bytes = frees(unit);
    sum += bytes;
    if (bytes <= most) continue;
    most = bytes;
    best = unit;
  }
  cursor_ = at;
  if (most > 0 && most < enough && most * looked < kMuchMore * sum) unasked_ = kUnasked;
  told_[*best] = true;
  return best;
}

}  // namespace fermata::storage
