#include "common/time_parse.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <optional>

namespace fermata {
namespace {

using std::chrono::milliseconds;

struct Unit {
  std::string_view name;
  int64_t ms;
};

// The largest first: the order in which units may follow each other.
constexpr std::array<Unit, 5> kUnits{
    {{"d", 86'400'000}, {"h", 3'600'000}, {"m", 60'000}, {"s", 1000}, {"ms", 1}}};

constexpr int64_t kLongest = 100LL * 365 * 86'400'000;
constexpr std::string_view kDigits = "0123456789";

/// Adds `count` times `unit` milliseconds to `sum`; false past kLongest.
bool add(int64_t& sum, int64_t count, int64_t unit) {
  if (count > (kLongest - sum) / unit) return false;
  sum += count * unit;
  return true;
}

/// Takes the digits at the front of `text`; nullopt when there are none or too many.
std::optional<int64_t> take_number(std::string_view& text) {
  const size_t length = std::min(text.find_first_not_of(kDigits), text.size());
  int64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + length, value);
  if (length == 0 || error != std::errc{}) return std::nullopt;
  text.remove_prefix(length);
  return value;
}

/// "[days-]a[:b[:c]]", whole.
std::optional<milliseconds> parse_slurm(std::string_view text) {
  int64_t sum = 0;
  const bool has_days = text.find('-') != std::string_view::npos;
  if (has_days) {
    const auto days = take_number(text);
    if (!days || !text.starts_with('-') || !add(sum, *days, 86'400'000)) return std::nullopt;
    text.remove_prefix(1);
  }
  std::array<int64_t, 3> fields{};
  size_t count = 0;
  while (true) {
    const auto field = take_number(text);
    if (!field || count == fields.size()) return std::nullopt;
    fields[count++] = *field;
    if (text.empty()) break;
    if (!text.starts_with(':')) return std::nullopt;
    text.remove_prefix(1);
  }
  // After days the first field is hours; without, "m", "m:s" and "h:m:s" end at seconds or minutes.
  int64_t unit = has_days || count == 3 ? 3'600'000 : 60'000;
  for (size_t i = 0; i < count; ++i) {
    if (!add(sum, fields[i], unit)) return std::nullopt;
    unit /= 60;
  }
  return milliseconds(sum);
}

/// "1h30m", "0.5s": numbers with units in falling order, each at most once.
std::optional<milliseconds> parse_units(std::string_view text) {
  int64_t sum = 0;
  size_t next = 0;
  while (!text.empty()) {
    const auto whole = take_number(text);
    if (!whole) return std::nullopt;
    std::string_view fraction;
    if (text.starts_with('.')) {
      text.remove_prefix(1);
      fraction = text.substr(0, text.find_first_not_of(kDigits));
      if (fraction.empty()) return std::nullopt;
      text.remove_prefix(fraction.size());
    }
    const size_t length = std::min(text.find_first_of(kDigits), text.size());
    const std::string_view name = text.substr(0, length);
    text.remove_prefix(length);
    while (next < kUnits.size() && kUnits[next].name != name) ++next;
    if (next == kUnits.size()) return std::nullopt;
    int64_t unit = kUnits[next++].ms;
    if (!add(sum, *whole, unit)) return std::nullopt;
    // Digits of the fraction one by one; what is below a millisecond is dropped.
    for (const char digit : fraction) {
      unit /= 10;
      if (!add(sum, (digit - '0') * unit, 1)) return std::nullopt;
    }
  }
  return milliseconds(sum);
}

}  // namespace

Result<milliseconds> parse_duration(std::string_view text) {
  const bool plain = text.find_first_not_of("0123456789:-") == std::string_view::npos;
  std::optional<milliseconds> value;
  if (!text.empty()) value = plain ? parse_slurm(text) : parse_units(text);
  if (!value) {
    return failure(Code::kUsage,
                   fmt::format("'{}' is not a time: write it as 30m, 2h, 5s, 250ms or 1h30m, or as "
                               "Slurm does: minutes, minutes:seconds, hours:minutes:seconds, "
                               "days-hours[:minutes[:seconds]]",
                               text));
  }
  return *value;
}

std::string format_duration(milliseconds duration) {
  // Unsigned, so that the most negative value has a magnitude too.
  uint64_t rest = static_cast<uint64_t>(duration.count());
  std::string text;
  if (duration.count() < 0) {
    rest = -rest;
    text = "-";
  }
  if (rest == 0) return "0s";
  if (rest < 1000) return fmt::format("{}{}ms", text, rest);
  for (const Unit& unit : kUnits) {
    const uint64_t size = static_cast<uint64_t>(unit.ms);
    if (unit.name == "s" && rest != 0) {
      text += fmt::format("{}", rest / 1000);
      if (const uint64_t ms = rest % 1000; ms != 0) {
        std::string digits = fmt::format(".{:03}", ms);
        digits.erase(digits.find_last_not_of('0') + 1);
        text += digits;
      }
      return text + "s";
    }
    if (const uint64_t count = rest / size; count != 0)
      text += fmt::format("{}{}", count, unit.name);
    rest %= size;
  }
  return text;
}

}  // namespace fermata
