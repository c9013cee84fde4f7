// A pod: namespaces, a cgroup v2 group, and podinit as PID 1. Called from one thread of a process
// that has the capabilities listed in missing_capabilities().
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::pod {

/// Capabilities this process lacks and a pod needs, as "CAP_SYS_ADMIN, CAP_SYS_PTRACE"; empty:
/// none.
std::string missing_capabilities();

/// The mount point of the cgroup v2 tree, in hybrid and unified layouts (from
/// /proc/self/mountinfo).
Result<std::filesystem::path> cgroup2_mount();

/// The cgroup v2 group of a pod.
struct GroupSpec {
  std::string name;  ///< empty: "<job>.<step>"
  /// Called when the group stands and holds no process yet: what has to be there before the first
  /// one. A failure ends the start, and the group is removed. May be null.
  std::function<Status(const std::filesystem::path& group)> prepare;
};

class ModelProcess;

/// A rank that differs from the others: the command, environment and streams are its own.
struct RankSpec {
  std::string program;  ///< path
  std::vector<std::string> command;
  std::vector<std::string> environment;
  std::vector<uint32_t> processors;  ///< it may run on; empty: all
  std::array<int, 3> stdio{-1, -1, -1};
};

struct PodSpec {
  JobStep job;
  Credentials user;
  uint32_t ranks = 1;  ///< of the step, in all of its pods
  uint32_t pod = 0;    ///< which pod of the step this one is
  /// By rank: the pod it is in. Empty: all are in this one.
  std::vector<uint32_t> pod_of_rank;
  /// By pod: the host name its ranks know, distinct for each. Empty: a step of one pod, and
  /// `host_name`.
  std::vector<std::string> hosts;
  std::vector<std::string> command;      ///< argv of each rank; [0] is looked up in the user's PATH
  std::vector<std::string> environment;  ///< "NAME=value"
  std::string working_directory;
  std::string host_name;              ///< UTS name inside; empty: that of `hosts`, or the host's
  std::array<int, 3> stdio{0, 1, 2};  ///< become 0, 1, 2 of podinit and so of the ranks
  GroupSpec group;
  /// Of a step whose tasks somebody else has prepared (Slurm): the ranks of this pod in ascending
  /// order; `command` and `environment` are not used, and the end of each is told through the
  /// exchange. The pod ends with its last rank.
  std::vector<RankSpec> ranks_here;
  /// What the pod takes over from a process outside; null: nothing. Not owned.
  const ModelProcess* model = nullptr;
};

/// Clock values that the pod's processes shall read now (time_namespaces(7)).
struct PodClocks {
  timespec monotonic{};
  timespec boottime{};
};

class Pod {
 public:
  /// Makes the namespaces and the group, drops to the user and execs podinit, which starts the
  /// ranks. kNotFound: the command or the working directory cannot be found (exit status 127 is the
  /// caller's).
  static Result<Pod> launch(const PodSpec& spec);

  /// The same without podinit: PID 1 is a fork of ours waiting in pause(), root, for the engine to
  /// rebuild the pod in.
  static Result<Pod> make_shell(JobStep job, const std::string& host_name,
                                const std::string& domain_name, const PodClocks& clocks,
                                const GroupSpec& group = {}, const ModelProcess* model = nullptr);

  /// Takes over a running pod whose agent died.
  static Result<Pod> adopt(JobStep job, pid_t init, const std::filesystem::path& group);

  Pod(Pod&&) noexcept;
  Pod& operator=(Pod&&) noexcept;
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;
  /// Leaves the pod running: call destroy() to end it.
  ~Pod();

  JobStep job() const;
  pid_t init_pid() const;
  /// Readable (poll) once PID 1 has ended.
  int init_pidfd() const;
  /// The pod's cgroup v2 directory.
  const std::filesystem::path& group() const;

  /// Sends a signal to podinit, which hands it to the ranks (SIGINT, SIGTERM, SIGUSR1 ...).
  Status signal(int signo) const;
  /// Once the pidfd is readable: the wait status of PID 1. nullopt: it was not our child, and the
  /// kernel does not tell others (end_of_process.h).
  std::optional<int> reap();
  /// SIGKILLs every process, waits for them, removes the group. Idempotent.
  Status destroy();

 private:
  struct State;
  explicit Pod(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// pidfd_send_signal(2) of one of the signals that Pod::signal() takes; 0 or an errno (EINVAL:
/// another signal).
int send_signal(int init_pidfd, int signo);

/// Sends a signal to one rank of a pod that was launched with `ranks_here`; 0 or an errno.
int send_rank_signal(int init_pidfd, uint32_t rank, int signo);

/// Runs a command inside the pod whose PID 1 is `init`, as `user`, with this environment
/// ("NAME=value", its PATH finds the command) and the caller's streams; returns its exit status
/// (128+N for a signal).
Result<int> exec_in_pod(pid_t init, const std::filesystem::path& group, const Credentials& user,
                        const std::vector<std::string>& command,
                        const std::vector<std::string>& environment);

}  // namespace fermata::pod
