// Places a pod that is rebuilt: carries a plan of numa/ out in the processes that the engine
// builds. On the tracer's thread.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "node-agent/engine/capture.h"
#include "numa/plan.h"
#include "proto/placement.pb.h"

namespace fermata::node_agent {

class PodPlacer {
 public:
  /// Plans for this machine and what process `init` may use of it: PID 1 of the new pod. kDamaged:
  /// the placement, which comes from an image, makes no sense.
  static Result<PodPlacer> plan(const image::Placement& saved, numa::Mode mode, pid_t init);

  /// As the engine's rebuild calls them (engine/rebuild.h). A policy that the machine refuses is
  /// told in notes(); it does not end the restart.
  Status before_contents(const engine::FrozenProcess& process, engine::Remote& remote);
  Status after_contents(const engine::FrozenProcess& process, engine::Remote& remote);
  Status each_thread(const engine::FrozenProcess& process, const engine::FrozenThread& thread,
                     engine::Remote& remote);

  /// What after_contents() does for pages that had not come then; to be called when they have.
  std::function<void()> settle_later(const std::vector<engine::FrozenProcess>& processes) const;

  /// Binds every thread as planned.
  void bind(const std::vector<engine::FrozenProcess>& processes);

  /// Keeps the plan for who asks later how the job lies against it; load() reads it back. Readable
  /// for all.
  Status save(const std::filesystem::path& file) const;
  /// kNotFound: nothing was planned.
  static Result<image::Placement> load(const std::filesystem::path& file);

  /// What is not as it was, one sentence each.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  PodPlacer() = default;
  Status make(std::span<const numa::PlannedCall* const> planned, engine::Remote& remote);
  Status make_those(const std::vector<numa::PlannedCall>& calls, int vpid, int vtid,
                    engine::Remote& remote);
  Status map_shared_pages(const engine::FrozenProcess& process, engine::Remote& remote);
  void settle(const engine::FrozenProcess& process);

  numa::Plan plan_;
  bool has_nodes_ = false;  ///< more than one: pages can be in the wrong place
  std::map<std::pair<int, int>, size_t> refused_;  ///< calls, by process and errno
  std::vector<std::string> notes_;
};

}  // namespace fermata::node_agent
