// The ranks that podinit started: how each is started, which is which when a child ends, and what
// the job's exit status is. Belongs to the main loop; only RankFlags is shared with libpmix's
// thread.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "node-agent/pod/podinit_config.h"

namespace fermata::pod {

/// Where a rank stands with the PMIx server. libpmix's thread sets a flag before it answers the
/// rank, so that it is seen before the rank can end.
struct RankFlags {
  std::atomic<bool> connected{false};
  std::atomic<bool> finalized{false};
  std::atomic<bool> uses_names{false};
};

class RankTable {
 public:
  /// `ranks` of the step; those of other pods are never started here and count for nothing.
  explicit RankTable(uint32_t ranks) : ranks_(ranks), flags_(ranks) {}

  uint32_t size() const { return static_cast<uint32_t>(ranks_.size()); }
  std::vector<RankFlags>& flags() { return flags_; }

  /// Forks and executes rank `rank`, in a process group of its own. `streams`: the first of the
  /// three descriptors that are its own; -1: it has podinit's.
  Status start(uint32_t rank, const RankStart& what, int streams);

  /// A child ended. The rank it was, or nothing: an orphan.
  std::optional<uint32_t> ended(pid_t pid, int wait_status);
  /// Whether the rank's end is an end of the whole job: it was in MPI and left without finalize.
  bool left_without_finalize(uint32_t rank) const;

  bool any_running() const;
  bool running(uint32_t rank) const { return ranks_[rank].pid > 0; }
  /// Exit status, as a shell has it (128+N for a signal), of a rank that ended.
  int status_of(uint32_t rank) const { return ranks_[rank].status; }

  /// Sends a signal to the process group of a rank, or of every running rank.
  void signal(uint32_t rank, int signo) const;
  void signal_all(int signo) const;

  /// From now on the ends of ranks are our doing and do not count, but for `culprit`, if there is
  /// one.
  void stop_counting(std::optional<uint32_t> culprit);
  /// The highest status of the ranks that count.
  int highest_status() const { return highest_; }

 private:
  struct Rank {
    pid_t pid = -1;
    int status = 0;
  };

  std::vector<Rank> ranks_;
  std::vector<RankFlags> flags_;
  bool counting_ = true;
  std::optional<uint32_t> culprit_;
  int highest_ = 0;
};

}  // namespace fermata::pod
