// XXH3 of bytes: 64 bits for a block, 128 bits for a digest that is shown. Any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace fermata::storage {

uint64_t checksum64(std::span<const std::byte> bytes);

/// 128 bits, in the canonical (big-endian) byte order of xxHash.
using Digest = std::array<uint8_t, 16>;

Digest digest128(std::span<const std::byte> bytes);
/// 32 lower-case hexadecimal digits.
std::string to_hex(const Digest& digest);

/// Digest of bytes that come in pieces.
class DigestStream {
 public:
  DigestStream();
  DigestStream(const DigestStream&) = delete;
  DigestStream& operator=(const DigestStream&) = delete;
  ~DigestStream();

  void add(std::span<const std::byte> bytes);
  Digest value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fermata::storage
