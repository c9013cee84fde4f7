#include "cli/checkpoint_witness.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "common/credentials.h"
#include "common/log.h"
#include "coord/coordinator.h"

namespace fermata::cli {
namespace {

constexpr std::chrono::seconds kPatience{10};
constexpr std::chrono::milliseconds kPause{200};

/// Nothing: the coordinator does not answer. Else the job, null once it has ended.
std::optional<std::optional<wire::JobInfo>> look(ControlClient& client, JobStep job) {
  const Result<wire::JobsReply> reply = client.jobs();
  if (!reply) return std::nullopt;
  const auto found = std::find_if(
      reply->jobs().begin(), reply->jobs().end(),
      [&](const wire::JobInfo& info) { return info.job() == job.job && info.step() == job.step; });
  if (found == reply->jobs().end()) return std::optional<wire::JobInfo>();
  return std::optional<wire::JobInfo>(*found);
}

}  // namespace

CheckpointWitness::CheckpointWitness(ControlClient& client, JobStep job)
    : client_(client), job_(job) {
  if (const auto seen = look(client_, job_); seen && *seen) dir_ = (*seen)->checkpoint_dir();
  before_ = newest();
}

Crid CheckpointWitness::newest() const {
  if (dir_.empty()) return {};
  const Result<Credentials> caller = credentials_of_caller();
  if (!caller) return {};
  const Result<coord::ChosenSet> set = coord::Coordinator(dir_, *caller).choose(job_, std::nullopt);
  return set ? set->manifest.crid : Crid{};
}

bool CheckpointWitness::wait_for_coordinator() {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    const auto seen = look(client_, job_);
    // One that was only out of reach is still at it.
    if (seen && (!*seen || (*seen)->state() != "checkpointing")) return true;
    std::this_thread::sleep_for(kPause);
  }
  return false;
}

node_agent::ControlReply CheckpointWitness::find_out(const Status& lost) {
  if (dir_.empty()) return {lost, {}};
  log_warning(fmt::format("{}; looking what became of the checkpoint", lost.message()));
  const bool back = wait_for_coordinator();
  if (const Crid crid = newest(); before_ < crid) {
    const nlohmann::json out = {
        {"crid", crid.value},
        {"committed", true},
        {"sentence", fmt::format("checkpoint {} committed; the coordinator was lost meanwhile",
                                 to_string(crid))}};
    return {Status::ok(), out.dump(2)};
  }
  return {lost.within(
              back ? "nothing was committed: the coordinator was lost meanwhile"
                   : fmt::format(
                         "nothing is committed yet: look again with `fermata ls --checkpoint-dir "
                         "{}` when the coordinator is back",
                         dir_.native())),
          {}};
}

}  // namespace fermata::cli
