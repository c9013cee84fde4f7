// How a refusal ends whose reason may pass by itself. One that turns out not to pass is told
// without it.
#pragma once

#include <string_view>

namespace fermata {

inline constexpr std::string_view kTryAgain = "; try again in a moment";

}  // namespace fermata
