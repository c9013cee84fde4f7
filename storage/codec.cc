#include "storage/codec.h"

#include <fmt/format.h>
#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

namespace fermata::storage {
namespace {

// The LZ4 filter's own head: length of all (u64) and of a block (u32), then for each block its
// length when compressed (u32); all big-endian. A block that is not smaller is stored as it is.
constexpr size_t kLz4Head = 12;
constexpr size_t kLz4BlockHead = 4;
// The fastest of the ordinary levels: memory that compresses at all does so at once.
constexpr int kZstdLevel = 1;

template <typename T>
void put_big_endian(std::byte* at, T value) {
  for (size_t i = 0; i < sizeof value; ++i) {
    at[i] = static_cast<std::byte>(value >> (8 * (sizeof value - 1 - i)));
  }
}

template <typename T>
T get_big_endian(std::span<const std::byte> bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof value; ++i) value = value << 8 | static_cast<T>(bytes[i]);
  return value;
}

const char* chars(const std::byte* bytes) { return reinterpret_cast<const char*>(bytes); }
char* chars(std::byte* bytes) { return reinterpret_cast<char*>(bytes); }

size_t compress_lz4(std::span<const std::byte> in, std::span<std::byte> out) {
  constexpr size_t kHeads = kLz4Head + kLz4BlockHead;
  if (out.size() <= kHeads) return 0;
  const int room = static_cast<int>(std::min(out.size() - kHeads, in.size() - 1));
  const int size = LZ4_compress_default(chars(in.data()), chars(out.data() + kHeads),
                                        static_cast<int>(in.size()), room);
  if (size <= 0) return 0;
  put_big_endian(out.data(), static_cast<uint64_t>(in.size()));
  put_big_endian(out.data() + 8, static_cast<uint32_t>(in.size()));
  put_big_endian(out.data() + kLz4Head, static_cast<uint32_t>(size));
  return kHeads + static_cast<size_t>(size);
}

Status damaged(std::string_view what) {
  return {Code::kDamaged, fmt::format("compressed bytes that are none: {}", what)};
}

Status decompress_lz4(std::span<const std::byte> in, std::span<std::byte> out) {
  if (in.size() < kLz4Head) return damaged("too few");
  const auto total = get_big_endian<uint64_t>(in);
  const auto block = get_big_endian<uint32_t>(in.subspan(8));
  if (total != out.size() || block == 0) return damaged("of another length");
  in = in.subspan(kLz4Head);
  while (!out.empty()) {
    const size_t raw = std::min<size_t>(block, out.size());
    if (in.size() < kLz4BlockHead) return damaged("too few");
    const size_t length = get_big_endian<uint32_t>(in);
    in = in.subspan(kLz4BlockHead);
    if (length > in.size() || length > raw) return damaged("a block is too long");
    if (length == raw) {
      std::memcpy(out.data(), in.data(), raw);
    } else if (LZ4_decompress_safe(chars(in.data()), chars(out.data()), static_cast<int>(length),
                                   static_cast<int>(raw)) != static_cast<int>(raw)) {
      return damaged("no LZ4 block");
    }
    in = in.subspan(length);
    out = out.subspan(raw);
  }
  return in.empty() ? Status::ok() : damaged("too many");
}

}  // namespace

size_t compress(Codec codec, std::span<const std::byte> in, std::span<std::byte> out) {
  switch (codec) {
    case Codec::kLz4:
      return compress_lz4(in, out);
    case Codec::kZstd: {
      const size_t size = ZSTD_compress(out.data(), out.size(), in.data(), in.size(), kZstdLevel);
      return ZSTD_isError(size) != 0 ? 0 : size;
    }
    case Codec::kNone:
      break;
  }
  return 0;
}

Status decompress(Codec codec, std::span<const std::byte> in, std::span<std::byte> out) {
  switch (codec) {
    case Codec::kLz4:
      return decompress_lz4(in, out);
    case Codec::kZstd:
      if (ZSTD_decompress(out.data(), out.size(), in.data(), in.size()) != out.size()) {
        return damaged("no Zstandard frame of this length");
      }
      return Status::ok();
    case Codec::kNone:
      break;
  }
  return damaged(fmt::format("there is no filter {}", static_cast<uint32_t>(codec)));
}

}  // namespace fermata::storage
