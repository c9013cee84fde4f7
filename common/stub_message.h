// What the stubs of a Slurm step and the agent of their node say to each other over a UNIX socket
// (SOCK_SEQPACKET). The first field of `task` and `attach` is the version of these messages: an
// agent refuses another. A stub is the process that Slurm has for a task: the rank itself lives in
// a pod. Also compiled into Slurm's plugin, so it needs nothing but the standard library. Pure
// functions.
//
//   stub -> agent, as root     task     who it is and what the step wants (StepTask)
//   stub -> agent, as the user ready    with a memfd of TaskCommand and its three streams
//                              signal   number: for its rank
//                              attach   job, step, start, rank: to an agent that came after the
//                                       one it knew
//   agent -> stub              started  the rank runs
//                              refused  text: it will not; status: what to exit with
//                              ended    status: as wait(2) gives it
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fermata {

/// Names and values, in order; a name may stand several times. Neither holds NUL.
using StubFields = std::vector<std::pair<std::string, std::string>>;

/// Of the messages by which a step begins: counts up with every change that the other end has to
/// know of. A site upgrades plugin and agents of a node together; steps that run meanwhile have
/// stubs of the one before, so "attach", "signal" and "ended" stay as they are.
inline constexpr const char* kStubVersion = "1";
/// nullopt: of our version; else why it cannot be spoken with, for who said it.
std::optional<std::string> wrong_stub_version(const StubFields& fields);

/// Where the agent listens, unless told: <run_dir>/steps.
inline constexpr const char* kStubSocket = "/run/fermata/steps";
/// The longest message: some thousand groups of a user. Longer lists go in memfds.
inline constexpr size_t kLongestStubMessage = 131072;

std::string encode_stub_fields(const StubFields& fields);
/// nullopt: not what encode_stub_fields() makes.
std::optional<StubFields> decode_stub_fields(std::string_view text);
/// The first of this name; empty when there is none.
std::string_view stub_field(const StubFields& fields, std::string_view name);
/// As a number; 0 when it is none.
uint64_t stub_number(const StubFields& fields, std::string_view name);

/// A task of a step, as slurmstepd knows it.
struct StepTask {
  uint64_t job = 0;
  uint32_t step = 0;
  uint32_t start = 0;  ///< Slurm's restart count
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  ///< besides
  uint32_t node = 0;          ///< of the step's nodes, this one
  uint32_t nodes = 0;
  uint32_t ranks = 0;  ///< of the step
  uint32_t here = 0;   ///< of them on this node
  uint32_t rank = 0;
  uint64_t interval_ms = 0;  ///< 0: sets on request alone
  std::string dir;           ///< of checkpoints; empty: the site's, else below the working folder
  std::string restart_dir;   ///< empty: dir
  std::string restart;       ///< "latest", "never", a CRID; empty: latest where Slurm requeued it
  bool skip_done = false;
  /// So long before the job's time limit a last set is committed, and the job requeued; 0: none.
  uint64_t before_end_ms = 0;
  bool before_end_default = false;  ///< the site's wish: nothing for jobs that cannot be requeued
  std::string compress{};           ///< "none", "lz4", "zstd", "auto"; empty: the node's
};

StubFields to_fields(const StepTask& task);
/// nullopt: a number is out of its range.
std::optional<StepTask> step_task_of(const StubFields& fields);

/// What a task would have executed.
struct TaskCommand {
  std::string program;  ///< path
  std::vector<std::string> command;
  std::vector<std::string> environment;
  std::string working_directory;
};

StubFields to_fields(const TaskCommand& command);
TaskCommand task_command_of(const StubFields& fields);

}  // namespace fermata
