#include "cli/embedded_agent.h"

#include <sys/utsname.h>

#include <algorithm>

namespace fermata::cli {

using coord::Phase;

EmbeddedAgent::EmbeddedAgent(node_agent::PodAgent& pod_agent) : pod_agent_(pod_agent) {
  utsname host{};
  uname(&host);
  node_ = host.nodename;
}

void EmbeddedAgent::begin(Phase phase, const coord::SetOrder& order, coord::Time deadline) {
  using std::chrono::milliseconds;
  const coord::Time start = std::chrono::steady_clock::now();
  switch (phase) {
    case Phase::kPrepare:
      status_ = pod_agent_.prepare(
          {order.crid, order.parent, order.folder, order.end_job, order.track, order.compress});
      break;
    case Phase::kCapture: {
      const auto left =
          std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now());
      status_ = pod_agent_.capture(std::min<milliseconds>(left, kFreezeDeadline));
      break;
    }
    case Phase::kWriteBack:
      status_ = pod_agent_.write_back();
      break;
    case Phase::kCommit:
      status_ = pod_agent_.commit();
      break;
    case Phase::kIsolate:
    case Phase::kJoin:
      // All that talk with each other are in the one pod and stop together: no cable to cut.
      status_ = Status::ok();
      break;
  }
  took_ = std::chrono::steady_clock::now() - start;
}

Result<coord::AgentReport> EmbeddedAgent::await(coord::Time /*deadline*/) {
  if (!status_) return Failure(status_);
  const node_agent::ImageNumbers& numbers = pod_agent_.numbers();
  coord::AgentReport report;
  report.memory_bytes = numbers.memory_bytes;
  report.image_bytes = numbers.image_bytes;
  report.stand_still = numbers.stand_still;
  report.held = numbers.held;
  report.copied = numbers.copied;
  report.snapshot = numbers.snapshot;
  report.parent = numbers.parent;
  report.track = numbers.track;
  report.image = numbers.image;
  report.digest = numbers.digest;
  report.time = numbers.time;
  report.took = took_;
  return report;
}

void EmbeddedAgent::roll_back(const coord::SetOrder& /*order*/) { pod_agent_.roll_back(); }

void EmbeddedAgent::end_job(const coord::SetOrder& /*order*/) { status_ = pod_agent_.end_job(); }

}  // namespace fermata::cli
