// Makes the processes of a pod: PIDs, parents, sessions and process groups as they were. A process
// gets its session by being born in it, so the order of births follows from the sessions; where the
// leader of a session or group has ended, a helper takes its number and ends when all are born.
// Tracer's thread only.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <set>
#include <vector>

#include "node-agent/engine/rebuild_remote.h"
#include "proto/objects.pb.h"

namespace fermata::engine {

class ProcessTreeBuilder {
 public:
  /// `init`: PID 1, stripped.
  ProcessTreeBuilder(const image::PodObjects& objects, uint64_t bootstrap,
                     std::unique_ptr<RebuildRemote> init);

  /// Makes every process, zombies included (still alive).
  Status build();
  /// Gives processes their groups and ends the helpers.
  Status finish_groups();
  /// Lets the zombies end as they did.
  Status end_zombies();

  /// Puts those that were in a group stop there again, and takes the news of it off their parents'
  /// hands.
  Status stop_the_stopped();

  /// PID 1 first, children after parents; zombies not included.
  const std::vector<int>& order() const { return order_; }
  RebuildRemote& remote(int vpid) { return *remotes_.at(vpid); }
  bool has(int vpid) const { return remotes_.contains(vpid); }

 private:
  const image::Process* process(int vpid) const;
  std::vector<const image::Process*> children(int vpid) const;
  Status build_below(const image::Process& process);
  Status fork(int forker, int vpid, uint64_t extra_flags);
  Status set_session(int vpid);
  Status ensure_session_leader(int session);
  Status adopt_into_session(const image::Process& child);
  Status end_helper(int vpid);
  int free_number();

  const image::PodObjects& objects_;
  uint64_t bootstrap_;
  std::map<int, std::unique_ptr<RebuildRemote>> remotes_;
  std::map<int, int> session_of_;  ///< sessions as they stand while building
  std::vector<int> order_;
  std::set<int> helpers_;
  std::set<int> used_numbers_;
  int next_free_ = 2;
};

}  // namespace fermata::engine
