// Lists of CPUs and nodes as text: "0-3,8". Pure functions; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace fermata::numa {

/// Every number is below this.
inline constexpr int kMaxNumber = 8192;

/// `numbers` ascending and each once. "": none.
std::string format_list(const std::vector<int>& numbers);
/// Ascending, each once. kDamaged: not such a list.
Result<std::vector<int>> parse_list(std::string_view text);

}  // namespace fermata::numa
