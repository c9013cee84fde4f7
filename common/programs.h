// Where the programs of this installation are that are not in PATH. Any thread.
#pragma once

#include <filesystem>
#include <string_view>

#include "common/status.h"

namespace fermata {

/// `name` beside this program, as after a build, or in ../libexec/fermata, as installed. kNotFound
/// names both.
Result<std::filesystem::path> find_own_program(std::string_view name);

}  // namespace fermata
