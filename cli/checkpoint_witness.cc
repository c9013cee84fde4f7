#include "cli/checkpoint_witness.h"

#include <fmt/format.h>

#include <chrono>
#include <string>
#include <thread>

#include "common/credentials.h"
#include "common/log.h"
#include "coord/coordinator.h"

namespace fermata::cli {
namespace {

constexpr std::chrono::seconds kPatience{10};
constexpr std::chrono::milliseconds kPause{200};

/// What the coordinator says of a job.
struct Seen {
  bool answers = false;
  std::string state;  ///< empty: it has ended
  std::string dir;
};

Seen look(ControlClient& client, JobStep job) {
  Seen seen;
  const Result<wire::JobsReply> reply = client.jobs();
  if (!reply) return seen;
  seen.answers = true;
  for (const wire::JobInfo& info : reply->jobs()) {
    if (info.job() != job.job || info.step() != job.step) continue;
    seen.state = info.state();
    seen.dir = info.checkpoint_dir();
  }
  return seen;
}

}  // namespace

CheckpointWitness::CheckpointWitness(ControlClient& client, JobStep job, bool end_job)
    : client_(client),
      job_(job),
      end_job_(end_job),
      dir_(look(client, job).dir),
      before_(newest()) {}

std::optional<NewestSet> CheckpointWitness::newest() const {
  if (dir_.empty()) return std::nullopt;
  const Result<Credentials> caller = credentials_of_caller();
  if (!caller) return std::nullopt;
  const Result<coord::ChosenSet> set = coord::Coordinator(dir_, *caller).choose(job_, std::nullopt);
  if (set) return NewestSet{set->manifest.crid, set->manifest.result == "killed"};
  if (set.error().code() == Code::kNotFound) return NewestSet{};
  return std::nullopt;
}

bool CheckpointWitness::wait_for_coordinator() {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    const Seen seen = look(client_, job_);
    // One that was only out of reach is still at it.
    if (seen.answers && seen.state != "checkpointing") return true;
    std::this_thread::sleep_for(kPause);
  }
  return false;
}

node_agent::ControlReply CheckpointWitness::find_out(const Status& lost) {
  if (!before_) return {lost, {}};
  log_warning(fmt::format("{}; looking what became of the checkpoint", lost.message()));
  const bool back = wait_for_coordinator();
  const std::optional<NewestSet> now = newest();
  if (!now) return {lost, {}};
  return verdict_of({lost, end_job_, dir_, before_->crid, *now, back});
}

}  // namespace fermata::cli
