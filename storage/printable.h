// Text from an image for a terminal: what is not printable UTF-8 is shown as \xNN, so that no name
// can move the cursor. Pure; any thread.
#pragma once

#include <string>
#include <string_view>

namespace fermata::storage {

std::string printable(std::string_view text);

}  // namespace fermata::storage
