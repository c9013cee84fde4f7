#include "coord/set_protocol.h"

#include <fmt/format.h>

#include <algorithm>

namespace fermata::coord {
namespace {

class SteadyClock final : public Clock {
 public:
  Time now() const override { return std::chrono::steady_clock::now(); }
};

/// Runs one phase on all agents and waits for every one of them: the barrier. An agent that failed
/// does not cut the wait for the others short, so that a rollback never meets an agent at work.
Status run_phase(Phase phase, const SetOrder& order, std::span<Agent* const> agents, Time deadline,
                 const Clock& clock, SetOutcome& outcome) {
  for (Agent* agent : agents) agent->begin(phase, order, deadline);

  Status first_failure;
  for (size_t i = 0; i < agents.size(); ++i) {
    Result<AgentReport> report = agents[i]->await(deadline);
    Status status = report ? Status::ok() : report.error();
    if (report) {
      outcome.took[i][static_cast<size_t>(phase)] = report->took;
      const Duration queued = report->queued;
      outcome.reports[i] = *std::move(report);
      if (clock.now() > deadline + queued) {
        status = Status(Code::kTimeout, "did not end before its deadline");
      }
    }
    // What passes by itself is not the reason while there is another.
    if (!status && (first_failure.is_ok() ||
                    (first_failure.code() == Code::kBusy && status.code() != Code::kBusy))) {
      first_failure = status.within(fmt::format("{} on {}", phase_name(phase), agents[i]->node()));
    }
  }
  return first_failure;
}

/// The job plays on as if there had been no attempt.
void roll_back(const SetOrder& order, std::span<Agent* const> agents, Time deadline) {
  for (Agent* agent : agents) agent->roll_back(order);
  for (Agent* agent : agents) agent->await_roll_back(deadline);
}

Status end_pods(const SetOrder& order, std::span<Agent* const> agents, Time deadline) {
  for (Agent* agent : agents) agent->end_job(order);
  Status first_failure;
  for (Agent* agent : agents) {
    const Status ended = agent->await_end(deadline);
    if (!ended && first_failure) first_failure = ended.within(agent->node());
  }
  return first_failure;
}

}  // namespace

const Clock& Clock::steady() {
  static const SteadyClock clock;
  return clock;
}

std::string_view phase_name(Phase phase) {
  switch (phase) {
    case Phase::kPrepare:
      return "prepare";
    case Phase::kIsolate:
      return "isolate";
    case Phase::kCapture:
      return "capture";
    case Phase::kJoin:
      return "join";
    case Phase::kWriteBack:
      return "write back";
    case Phase::kCommit:
      return "commit";
  }
  return "?";
}

Duration SetOutcome::held() const {
  Duration longest{};
  for (const AgentReport& report : reports) longest = std::max(longest, report.held);
  return longest;
}

Duration SetOutcome::stand_still() const {
  Duration longest{};
  for (const AgentReport& report : reports) longest = std::max(longest, report.stand_still);
  return longest;
}

uint64_t SetOutcome::memory_bytes() const {
  uint64_t sum = 0;
  for (const AgentReport& report : reports) sum += report.memory_bytes;
  return sum;
}

uint64_t SetOutcome::image_bytes() const {
  uint64_t sum = 0;
  for (const AgentReport& report : reports) sum += report.image_bytes;
  return sum;
}

SetOutcome take_set(const SetOrder& order, std::span<Agent* const> agents,
                    const Deadlines& deadlines, const Clock& clock, const JudgeCut& judge_cut,
                    const WriteManifest& write_manifest) {
  SetOutcome outcome;
  outcome.reports.resize(agents.size());
  outcome.took.resize(agents.size());
  const Time start = clock.now();

  for (Phase phase : kPhases) {
    const Time phase_start = clock.now();
    outcome.status =
        run_phase(phase, order, agents, phase_start + deadlines[phase], clock, outcome);
    outcome.phase_time[static_cast<size_t>(phase)] = clock.now() - phase_start;
    if (outcome.status && phase == Phase::kCapture) outcome.status = judge_cut(outcome);
    if (!outcome.status) break;
  }
  // All images are durable under their names. The manifest makes them a set.
  if (outcome.status) outcome.status = write_manifest(outcome).within("manifest");

  const Time ending = clock.now() + deadlines.ending;
  if (!outcome.status) {
    roll_back(order, agents, ending);
  } else if (order.end_job) {
    outcome.end_job = end_pods(order, agents, ending);
  }
  outcome.total = clock.now() - start;
  return outcome;
}

}  // namespace fermata::coord
