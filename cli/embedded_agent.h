// The agent of the embedded form: the coordinator's phases, carried out in this process on one pod.
// On the tracer's thread.
#pragma once

#include <chrono>
#include <string>

#include "coord/agent.h"
#include "node-agent/pod_agent.h"

namespace fermata::cli {

class EmbeddedAgent final : public coord::Agent {
 public:
  /// How long processes have to stop.
  static constexpr std::chrono::seconds kFreezeDeadline{10};

  /// `pod_agent` is not owned and outlives this.
  explicit EmbeddedAgent(node_agent::PodAgent& pod_agent);

  std::string node() const override { return node_; }
  void begin(coord::Phase phase, const coord::SetOrder& order, coord::Time deadline) override;
  Result<coord::AgentReport> await(coord::Time deadline) override;
  void roll_back(const coord::SetOrder& order) override;
  void await_roll_back(coord::Time /*deadline*/) override {}
  void end_job(const coord::SetOrder& order) override;
  Status await_end(coord::Time /*deadline*/) override { return status_; }

 private:
  node_agent::PodAgent& pod_agent_;
  std::string node_;
  coord::Duration took_{};
  Status status_;  ///< of what was begun last
};

}  // namespace fermata::cli
