// Compression of blocks of pages, in the forms of HDF5's registered filters, so that other tools
// read them. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/compression.h"
#include "common/status.h"

namespace fermata::storage {

/// HDF5's numbers of the filters. Part of the format.
enum class Codec : uint32_t {
  kNone = 0,
  kLz4 = 32004,   ///< https://github.com/HDFGroup/hdf5_plugins, LZ4: length, block length, blocks
  kZstd = 32015,  ///< one Zstandard frame (RFC 8878)
};

/// Compresses `in` into `out`. 0: it does not fit, as it does not compress enough.
size_t compress(Codec codec, std::span<const std::byte> in, std::span<std::byte> out);

/// The reverse, of bytes that anybody may have made: kDamaged unless they yield exactly
/// out.size() bytes. Never writes past `out`.
Status decompress(Codec codec, std::span<const std::byte> in, std::span<std::byte> out);

}  // namespace fermata::storage
