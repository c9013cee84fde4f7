#include "numa/number_list.h"

#include <fmt/format.h>

#include <charconv>

namespace fermata::numa {

std::string format_list(const std::vector<int>& numbers) {
  std::string text;
  for (size_t first = 0; first < numbers.size();) {
    size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[first]);
    if (last > first) text += fmt::format("-{}", numbers[last]);
    first = last + 1;
  }
  return text;
}

Result<std::vector<int>> parse_list(std::string_view text) {
  std::vector<int> numbers;
  const auto wrong = [&] {
    return failure(Code::kDamaged, fmt::format("'{:.80}' is not a list of numbers", text));
  };
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int first = 0;
    auto [stop, error] = std::from_chars(at, end, first);
    if (error != std::errc()) return wrong();
    int last = first;
    if (stop < end && *stop == '-') {
      const auto range = std::from_chars(stop + 1, end, last);
      if (range.ec != std::errc()) return wrong();
      stop = range.ptr;
    }
    const bool ascending = numbers.empty() || first > numbers.back();
    if (first < 0 || last < first || last >= kMaxNumber || !ascending) return wrong();
    for (int number = first; number <= last; ++number) numbers.push_back(number);
    at = stop;
    if (at == end) break;
    if (*at != ',' || at + 1 == end) return wrong();
    ++at;
  }
  return numbers;
}

}  // namespace fermata::numa
