#include "common/size_parse.h"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <charconv>
#include <optional>

namespace fermata {
namespace {

constexpr std::string_view kPrefixes = "KMGTPE";
constexpr std::string_view kDigits = "0123456789";

/// Bytes in one unit: "", "B", "K", "KiB", "KB", in any case.
std::optional<uint64_t> unit_of(std::string_view text) {
  std::string unit;
  for (const char c : text) {
    unit += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  if (unit.empty() || unit == "B") return 1;
  const size_t power = kPrefixes.find(unit[0]);
  if (power == std::string_view::npos) return std::nullopt;
  const std::string_view rest = std::string_view(unit).substr(1);
  uint64_t base = 0;
  if (rest.empty() || rest == "IB") base = 1024;
  if (rest == "B") base = 1000;
  if (base == 0) return std::nullopt;
  uint64_t value = base;
  for (size_t i = 0; i < power; ++i) value *= base;
  return value;
}

std::optional<uint64_t> parse(std::string_view text) {
  uint64_t whole = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), whole);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(stop - text.data()));
  std::string_view fraction;
  if (text.starts_with('.')) {
    fraction = text.substr(1, text.find_first_not_of(kDigits, 1) - 1);
    if (fraction.empty()) return std::nullopt;
    text.remove_prefix(1 + fraction.size());
  }
  if (text.size() > 1 && text.starts_with(' ')) text.remove_prefix(1);
  const auto unit = unit_of(text);
  uint64_t bytes = 0;
  if (!unit || __builtin_mul_overflow(whole, *unit, &bytes)) return std::nullopt;
  // Exact to 15 digits, all that a double could have held, and no more than a unit is big.
  uint64_t numerator = 0;
  uint64_t denominator = 1;
  for (const char digit : fraction.substr(0, 15)) {
    numerator = numerator * 10 + static_cast<uint64_t>(digit - '0');
    denominator *= 10;
  }
  __extension__ using Wide = unsigned __int128;
  const auto part = static_cast<uint64_t>(Wide{numerator} * *unit / denominator);
  if (__builtin_add_overflow(bytes, part, &bytes)) return std::nullopt;
  return bytes;
}

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  const auto bytes = parse(text);
  if (!bytes) {
    return failure(Code::kUsage,
                   fmt::format("'{}' is not a size: write it as 512, 64K, 1.5G or 10MiB", text));
  }
  return *bytes;
}

std::string format_size(uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  size_t power = 0;
  double value = static_cast<double>(bytes) / 1024;
  // 1023.95 would print as "1024": the next unit's.
  while (value >= 1023.95 && power + 1 < kPrefixes.size()) {
    value /= 1024;
    ++power;
  }
  std::string number = fmt::format("{:.1f}", value);
  if (number.ends_with(".0")) number.resize(number.size() - 2);
  return fmt::format("{} {}iB", number, kPrefixes[power]);
}

}  // namespace fermata
