// What podinit has to start, handed from Pod::launch() to it in a memfd that it reads and closes:
// neither the user's environment nor the length of a command line has a say in how podinit itself
// is loaded. Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/status.h"

namespace fermata::pod {

/// The descriptor that podinit finds its configuration at.
inline constexpr int kConfigFd = 3;

struct PodinitConfig {
  JobStep job;
  uint32_t ranks = 1;
  std::string program;                   ///< path that each rank executes, found by find_program()
  std::vector<std::string> command;      ///< argv of each rank
  std::vector<std::string> environment;  ///< "NAME=value" of the job's user
};

/// NUL-terminated strings, one after the other; lists begin with their length.
std::string encode(const PodinitConfig& config);
/// kInternal when `text` is not what encode() makes.
Result<PodinitConfig> decode_podinit_config(const std::string& text);

}  // namespace fermata::pod
