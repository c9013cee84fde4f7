// Which pages of an address space are still in the image alone, while the program runs and moves
// its memory about: for each, where it is to be put now, and where the image has it. Plain values;
// one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace fermata::engine {

class MissingPages {
 public:
  struct Part {
    uint64_t now = 0;   ///< address in the process
    uint64_t then = 0;  ///< address in the image
    uint64_t length = 0;

    bool operator==(const Part&) const = default;
  };

  /// [now, now + length) is [then, then + length) of the image. Neither overlaps what is there.
  void add(uint64_t now, uint64_t then, uint64_t length);
  /// Where the image has the page at `now`; nullopt: it is not missing.
  std::optional<uint64_t> then_of(uint64_t now) const;
  /// Whether any page of [now, now + length) is missing.
  bool any(uint64_t now, uint64_t length) const { return !parts_now(now, now + length).empty(); }
  /// What is missing of [from, to) in the image, in the order of the image.
  std::vector<Part> parts_then(uint64_t from, uint64_t to) const;

  /// [now, now + length) has come, or is wanted no more.
  void remove(uint64_t now, uint64_t length);
  /// The program has moved [from, from + length) to `to` (mremap(2)); what was there is gone.
  void move(uint64_t from, uint64_t to, uint64_t length);

  bool empty() const { return by_now_.empty(); }
  uint64_t bytes() const;

 private:
  struct Place {
    uint64_t other = 0;  ///< address on the other side
    uint64_t length = 0;
  };
  using Side = std::map<uint64_t, Place>;  ///< by where it begins

  static Side::const_iterator holding(const Side& side, uint64_t address);
  std::vector<Part> parts_now(uint64_t from, uint64_t to) const;

  Side by_now_;
  Side by_then_;
};

}  // namespace fermata::engine
