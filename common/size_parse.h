// Numbers of bytes as people write and read them. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace fermata {

/// "512", "64K", "1.5G", "10MiB", "3MB": K, M, G, T, P, E and KiB ... are powers of 1024, KB ...
/// powers of 1000, as in GNU tools; case does not matter, one space may stand before the unit. A
/// fraction of a byte is dropped. kUsage for anything else, and above 2^64-1.
Result<uint64_t> parse_size(std::string_view text);

/// For people: "512 B", "64 KiB", "1.5 GiB", with at most one decimal.
std::string format_size(uint64_t bytes);

}  // namespace fermata
