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
  uint32_t ranks = 1;                    ///< of the step, in all of its pods
  uint32_t pod = 0;                      ///< this one
  std::vector<uint32_t> pod_of_rank;     ///< by rank
  std::vector<std::string> hosts;        ///< by pod: the host names that ranks know
  std::string program;                   ///< path that each rank executes, found by find_program()
  std::vector<std::string> command;      ///< argv of each rank
  std::vector<std::string> environment;  ///< "NAME=value" of the job's user
};

/// NUL-terminated strings, one after the other; lists begin with their length.
std::string encode(const PodinitConfig& config);
/// kInternal when `text` is not what encode() makes, or describes no step: every rank has a pod,
/// every pod a name of its own.
Result<PodinitConfig> decode_podinit_config(const std::string& text);

}  // namespace fermata::pod
