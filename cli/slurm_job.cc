#include "cli/slurm_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "common/ids.h"
#include "proto/outcome.h"
#include "slurm/client.h"

namespace fermata::cli {
namespace {

using nlohmann::json;

/// Steps begin and end while sets are taken; one that does so without pause is given up.
constexpr int kLooks = 5;

/// Steps of the job that the coordinator has.
Result<std::set<uint32_t>> held_steps(ControlClient& client, uint64_t job) {
  FERMATA_ASSIGN(const wire::JobsReply reply, client.jobs());
  FERMATA_TRY_RESULT(wire::to_status(reply.outcome()));
  std::set<uint32_t> steps;
  for (const wire::JobInfo& info : reply.jobs()) {
    if (info.slurm() && info.job() == job) steps.insert(info.step());
  }
  return steps;
}

Status take_set(ControlClient& client, JobStep step, const SlurmMove& move, SlurmMoved& moved) {
  wire::CheckpointRequest request;
  request.set_job(step.job);
  request.set_step(step.step);
  request.set_max_wait_ms(move.max_wait_ms);
  request.set_if_idle(move.if_idle);
  request.set_checkpoint_dir(move.checkpoint_dir.native());
  FERMATA_ASSIGN_STATUS(const wire::CheckpointReply reply, client.checkpoint(request));
  Status status = wire::to_status(reply.outcome());
  if (status) moved.crid = std::max(moved.crid, reply.crid());
  return status;
}

/// A set of every step that runs; not ok: of one there is none.
Status hold_all(ControlClient& client, uint64_t job, json known, const SlurmMove& move,
                SlurmMoved& moved) {
  std::set<uint32_t> done;
  for (int look = 0; look < kLooks; ++look) {
    FERMATA_ASSIGN_STATUS(const std::set<uint32_t> held, held_steps(client, job));
    bool all = true;
    Status first;
    for (const uint32_t number : known.value("steps", std::vector<uint32_t>())) {
      if (done.count(number) != 0) continue;
      const JobStep step{job, number};
      const Status status =
          held.count(number) != 0
              ? take_set(client, step, move, moved)
              : Status{Code::kUnsupported,
                       fmt::format("step {} runs without Fermata", to_string(step))};
      if (status) done.insert(number);
      // It has ended meanwhile, and perhaps another has begun.
      const bool gone = status.code() == Code::kGone || status.code() == Code::kNotFound;
      all = all && !gone;
      if (!status && first) first = status;
    }
    if (all && first && !done.empty()) return Status::ok();
    if (all && first) return {Code::kUnsupported, "no step of it runs under Fermata"};
    if (all || look + 1 == kLooks) return first;
    FERMATA_ASSIGN_STATUS(known, ask_slurm({"job", std::to_string(job)}));
  }
  return Status::ok();
}

Status may_be_requeued(const json& job) {
  if (!job.value("batch", false)) {
    return {Code::kUnsupported,
            "Slurm requeues batch jobs only; end it when that suits, and "
            "`srun --restart` goes on from its checkpoint"};
  }
  if (job.value("requeue", false)) return Status::ok();
  return {Code::kUnsupported, "it was submitted so that Slurm may not requeue it (--no-requeue)"};
}

}  // namespace

SlurmMoved move_slurm_job(ControlClient& client, uint64_t job, const SlurmMove& move) {
  SlurmMoved moved;
  const std::string number = std::to_string(job);
  const Result<json> before = ask_slurm({"job", number});
  if (!before) {
    moved.status = before.error();
    return moved;
  }
  moved.restarts = before->value("restarts", uint64_t{0});
  moved.status = hold_all(client, job, *before, move, moved);
  if (moved.status && move.requeue) moved.status = may_be_requeued(*before);
  if (!moved.status && !move.force) return moved;
  if (move.requeue) {
    const Result<json> asked = ask_slurm({"requeue", number});
    if (asked) {
      moved.status = Status::ok();
      return moved;
    }
    if (moved.status) moved.status = asked.error();
    if (!move.force) return moved;
  }
  const Result<json> asked = ask_slurm({"cancel", number});
  if (!asked) {
    moved.status = asked.error();
  } else if (move.requeue) {
    moved.ended = true;
  } else {
    moved.status = Status::ok();
  }
  return moved;
}

}  // namespace fermata::cli
