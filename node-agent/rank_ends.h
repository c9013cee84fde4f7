// How the ranks of a Slurm step's pod ended, in a file beside the pod's record
// (PodRegistry::ends_of): written before podinit is told that its word was heard, and may go. An
// agent that comes after one that was killed tells Slurm from here. Written without the rights to
// open it: any thread, whatever user it acts for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "common/status.h"
#include "common/unique_fd.h"

namespace fermata::node_agent {

class RankEnds {
 public:
  /// Made where there is none, else added to. `ranks`: of the pod.
  static Result<std::shared_ptr<RankEnds>> open(const std::filesystem::path& file,
                                                const std::vector<uint32_t>& ranks);
  /// As wait(2) gives it. Of each rank of the pod once: what is said here may be the user's word,
  /// and the file lies in memory.
  void ended(uint32_t rank, int wait_status);
  /// Slurm ends the step by this signal.
  void signalled(int signo);

 private:
  RankEnds(UniqueFd file, const std::vector<uint32_t>& ranks)
      : file_(std::move(file)), running_(ranks.begin(), ranks.end()) {}

  const UniqueFd file_;
  std::mutex mutex_;
  std::set<uint32_t> running_;
  std::set<int> signals_;
};

struct KnownEnds {
  std::map<uint32_t, int> statuses;  ///< by rank
  int signal = 0;                    ///< Slurm's last word, if any

  /// Of the pod whose ranks these are; nullopt: not all are known.
  std::optional<int> status_of(std::span<const uint32_t> ranks) const;
};
/// What is not there, or not to be believed, is not known.
KnownEnds read_rank_ends(const std::filesystem::path& file);

}  // namespace fermata::node_agent
