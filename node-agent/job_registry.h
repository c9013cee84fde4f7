// The jobs of this machine, as files every `fermata` command can read:
//   <root>/jobs/<job>.<step>/job.json   what the job is and where its PID 1 is
//   <root>/jobs/<job>.<step>/lock       flock of who works on the pod: `fermata run`, or who stands
//   in for it <root>/jobs/<job>.<step>/control    its socket (control.h) <root>/next-job the next
//   job number
// Any thread; other processes may do the same at any time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/record_file.h"

namespace fermata::node_agent {

struct JobRecord {
  JobStep job;
  pid_t init = -1;               ///< host PID of the pod's PID 1
  uint64_t init_start = 0;       ///< process_start_time(init)
  pid_t agent = -1;              ///< `fermata run` or `fermata restart`
  std::filesystem::path group;   ///< the pod's cgroup v2 directory
  std::filesystem::path folder;  ///< of checkpoints
  uid_t owner_uid = 0;
  std::string owner;  ///< login name
  uint32_t ranks = 1;
  std::vector<std::string> command;
  int64_t started = 0;    ///< seconds since the epoch
  double interval_s = 0;  ///< 0: only on request
  /// A pod of the service (pod_registry.h): its sets are the coordinator's to take.
  bool service = false;
  uint32_t pod = 0;                 ///< its number in the step
  std::filesystem::path placement;  ///< of such a pod: what its restart planned, if there was one

  /// Whether PID 1 still is the process that was recorded.
  bool alive() const { return init > 0 && process_start_time(init) == init_start; }
};

/// The right to work on a job's pod: its folder and the lock in it. The folder stays when the job
/// outlives the claim (its agent was killed, or stood in for another) and is removed with a job
/// that has ended.
class JobClaim {
 public:
  JobClaim(JobClaim&& other) noexcept = default;
  JobClaim& operator=(JobClaim&& other) noexcept = default;
  JobClaim(const JobClaim&) = delete;
  JobClaim& operator=(const JobClaim&) = delete;
  ~JobClaim();

  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path control_socket() const { return folder_ / "control"; }
  /// Writes job.json: from now on the job is known to other commands.
  Status publish(const JobRecord& record);

 private:
  friend class JobRegistry;
  JobClaim(std::filesystem::path folder, UniqueFd lock)
      : folder_(std::move(folder)), lock_(std::move(lock)) {}

  std::filesystem::path folder_;
  UniqueFd lock_;
};

class JobRegistry {
 public:
  explicit JobRegistry(std::filesystem::path root = "/run/fermata") : root_(std::move(root)) {}

  /// A job number not given before since boot and not below `at_least`.
  Result<JobStep> allot(uint64_t at_least);

  /// Claims a job. kBusy: somebody else works on it.
  Result<JobClaim> claim(JobStep job);

  /// The living jobs, in ascending order, those of the service included: of a step with several
  /// pods here the first stands for all. What dead ones left is removed as far as the caller may.
  Result<std::vector<JobRecord>> living();
  /// One living job, as above; kNotFound.
  Result<JobRecord> find(JobStep job);
  /// A record for each pod that a living job has here, in ascending order; kNotFound.
  Result<std::vector<JobRecord>> pods(JobStep job);

  std::filesystem::path control_socket(JobStep job) const { return folder(job) / "control"; }

 private:
  std::filesystem::path folder(JobStep job) const;

  std::filesystem::path root_;
};

}  // namespace fermata::node_agent
