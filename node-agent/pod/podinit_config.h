// What podinit has to start, handed from Pod::launch() to it in a memfd that it reads and closes:
// neither the user's environment nor the length of a command line has a say in how podinit itself
// is loaded. Plain values.
#pragma once

#include <signal.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/status.h"

namespace fermata::pod {

/// The descriptor that podinit finds its configuration at.
inline constexpr int kConfigFd = 3;
/// And the streams of its ranks, where each has its own (engine/capture.h knows them, too).
inline constexpr int kFirstRankStream = 4;

/// To podinit, with a rank and a signal for it (encode_rank_signal) in the value.
inline const int kRankSignal = SIGRTMIN + 1;
inline int encode_rank_signal(uint32_t rank, int signo) {
  return static_cast<int>(rank << 8U) | signo;
}

/// How one rank is started, where each is another.
struct RankStart {
  std::string program;
  std::vector<std::string> command;
  std::vector<std::string> environment;
  std::vector<uint32_t> processors;  ///< empty: all
};

struct PodinitConfig {
  JobStep job;
  uint32_t ranks = 1;                    ///< of the step, in all of its pods
  uint32_t pod = 0;                      ///< this one
  std::vector<uint32_t> pod_of_rank;     ///< by rank
  std::vector<std::string> hosts;        ///< by pod: the host names that ranks know
  std::string program;                   ///< path that each rank executes, found by find_program()
  std::vector<std::string> command;      ///< argv of each rank
  std::vector<std::string> environment;  ///< "NAME=value" of the job's user
  /// Not empty: the ranks here, in ascending order, in place of the three above. Their streams are
  /// the descriptors from kFirstRankStream on, three each, and stay open until they end.
  std::vector<RankStart> starts;
  uint32_t umask = 022;  ///< with `starts`
};

/// NUL-terminated strings, one after the other; lists begin with their length.
std::string encode(const PodinitConfig& config);
/// kInternal when `text` is not what encode() makes, or describes no step: every rank has a pod,
/// every pod a name of its own.
Result<PodinitConfig> decode_podinit_config(const std::string& text);

}  // namespace fermata::pod
