#include "common/compression.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace fermata {

Result<Compression> parse_compression(std::string_view text) {
  constexpr std::array kNames{
      std::pair{std::string_view("none"), Compression::kNone},
      std::pair{std::string_view("lz4"), Compression::kLz4},
      std::pair{std::string_view("zstd"), Compression::kZstd},
      std::pair{std::string_view("auto"), Compression::kAuto},
  };
  for (const auto& [name, value] : kNames) {
    if (name == text) return value;
  }
  return failure(Code::kUsage, fmt::format("'{}': none, lz4, zstd or auto is expected", text));
}

Status check_compression(std::string_view text) {
  if (text.empty()) return Status::ok();
  const Result<Compression> parsed = parse_compression(text);
  return parsed ? Status::ok() : parsed.error();
}

}  // namespace fermata
