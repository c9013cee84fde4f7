// Which piece of an image is written next: one after the other, or first those whose memory is
// wanted back. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <vector>

namespace fermata::storage {

class UnitOrder {
 public:
  explicit UnitOrder(uint64_t units) : told_(units) {}

  /// The first that was not told yet; nullopt: all were.
  std::optional<uint64_t> next();
  /// One of which `frees` says much, `enough` if there is such a one near: who writes to memory
  /// goes on where he was. Looks at some only, as to ask takes time, and at others the next time.
  std::optional<uint64_t> next(const std::function<uint64_t(uint64_t unit)>& frees,
                               uint64_t enough);

 private:
  std::optional<uint64_t> first_left();

  std::mutex mutex_;
  std::vector<bool> told_;
  uint64_t first_ = 0;    ///< none before it is left
  uint64_t cursor_ = 0;   ///< where to look for the next that frees much
  unsigned unasked_ = 0;  ///< so many are told without looking
};

}  // namespace fermata::storage
