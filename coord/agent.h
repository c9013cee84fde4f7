// What the coordinator needs of a node: one Agent is one pod on one node during the life of a set.
// The embedded form calls the pod in its own process; a remote form sends the same phases over a
// wire. Called from one thread, the coordinator's.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "proto/addresses.pb.h"

namespace fermata::coord {

/// The phases of a set, in order. Between two of them stands a barrier: none begins the next before
/// all have ended this one.
enum class Phase { kPrepare, kIsolate, kCapture, kJoin, kWriteBack, kCommit };
inline constexpr std::array<Phase, 6> kPhases{Phase::kPrepare, Phase::kIsolate,   Phase::kCapture,
                                              Phase::kJoin,    Phase::kWriteBack, Phase::kCommit};

/// "prepare", "write back", ...
std::string_view phase_name(Phase phase);

using Time = std::chrono::steady_clock::time_point;
using Duration = std::chrono::nanoseconds;

/// What all agents of a set are told.
struct SetOrder {
  Crid crid;
  Crid parent;  ///< a committed set that images may build on; 0: a full set
  JobStep job;
  std::filesystem::path folder;  ///< of this set: <dir>/<job>.<step>/<crid>
  /// The pod stands still until the set is committed and is then ended (`fermata checkpoint
  /// --kill`).
  bool end_job = false;
  std::string track;          ///< how writes to memory are tracked: "auto", "uffd", ...
  std::string compress = {};  ///< pages: parse_compression(); empty: as the node has it
};

/// What an agent has to tell after a phase; numbers are filled in as they become known, and kept.
struct AgentReport {
  uint64_t memory_bytes = 0;  ///< of the job, held in the image
  uint64_t image_bytes = 0;   ///< size of the image on disk
  Duration stand_still{};     ///< how long the pod stood still
  Duration held{};            ///< and later, while it was written, for want of memory
  bool copied = false;        ///< the pod ran on while its image was written
  std::string snapshot;       ///< how: "twin", "copy", "bounded", "stopped"
  Crid parent;                ///< the set that the image builds on; 0: a full image
  std::string track;          ///< how writes were tracked: "uffd", ...
  std::string image;          ///< file name in the folder of the set
  std::string digest;         ///< of the image
  std::string time;           ///< of the cut, ISO 8601 in UTC
  Duration took{};            ///< the phase, at the agent
  Duration queued{};          ///< before it was its turn; does not count against its deadline
  /// After kCapture: connections that leave the pod.
  std::vector<image::OutsideConnection> connections;
};

class Agent {
 public:
  Agent() = default;
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;
  virtual ~Agent() = default;

  /// Name of the node, for sentences.
  virtual std::string node() const = 0;

  /// Begins a phase; what it comes to is told by await(). A local agent may do all the work in
  /// here.
  virtual void begin(Phase phase, const SetOrder& order, Time deadline) = 0;
  /// The outcome of the phase begun last: waits for it, until `deadline` at most (kTimeout), or as
  /// much longer as it had to wait for its turn.
  virtual Result<AgentReport> await(Time deadline) = 0;

  /// The set will not be: the pod runs on (whatever state it is in) and every file of the attempt
  /// is removed. Also called on agents that have not begun, and after an await() that timed out.
  /// A remote agent only begins it here.
  virtual void roll_back(const SetOrder& order) = 0;
  /// Until the roll-back is done, or until `deadline`: an agent that cannot be reached does it by
  /// itself.
  virtual void await_roll_back(Time deadline) = 0;

  /// After the commit of a set with `end_job`: ends the pod, which has stood still since the
  /// capture. Begun here, waited for by await_end().
  virtual void end_job(const SetOrder& order) = 0;
  virtual Status await_end(Time deadline) = 0;
};

}  // namespace fermata::coord
