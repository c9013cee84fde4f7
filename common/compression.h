// How pages are compressed in images, as a user asks for it. Any thread.
#pragma once

#include <string_view>

#include "common/status.h"

namespace fermata {

enum class Compression { kNone, kLz4, kZstd, kAuto };

/// "none", "lz4", "zstd", "auto". kUsage for anything else.
Result<Compression> parse_compression(std::string_view text);

/// Of what may be left out: empty is fine, too.
Status check_compression(std::string_view text);

}  // namespace fermata
