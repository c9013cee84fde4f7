// What of a twin's memory is not needed any more, while its image is written: what was read, and
// what never will be. It is given back in whole huge pages where that can be (a part of one that
// goes splits it), each byte once. Knows addresses only. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/extents.h"

namespace fermata::engine {

class GiveBack {
 public:
  struct Range {
    uint64_t start = 0;
    uint64_t end = 0;

    bool operator==(const Range&) const = default;
  };

  /// `maps`: what may be given back, ascending. `needed`: what will be read of it, each byte once;
  /// other maps' may be in it.
  GiveBack(const std::vector<Range>& maps, const Extents& needed);

  /// [address, address + length), needed, was read.
  void was_read(uint64_t address, uint64_t length);

  /// Ranges that can go now, at most `most` of them, of at most 64 MiB; none of them is told again.
  std::vector<Range> take(size_t most);
  /// Those that take() has not told yet.
  size_t ranges() const { return ready_.size(); }
  uint64_t bytes() const;
  /// Whether all that is needed was read.
  bool all_read() const { return left_ == 0; }

 private:
  /// One map, with the parts of it that are needed, that are so no more, and that were told.
  struct Part {
    Range range;
    Extents needed;
    Extents done;
    Extents told;
  };
  void tell(Part& part, const Extents& done);

  std::vector<Part> parts_;
  std::vector<Range> ready_;
  uint64_t left_ = 0;
};

}  // namespace fermata::engine
