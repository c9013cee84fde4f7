#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "cli/drain.h"
#include "cli/slurm_job.h"
#include "proto/outcome.h"
#include "slurm/client.h"

namespace fermata::cli {
namespace {

using nlohmann::json;

/// How long a job that Slurm has requeued is watched for where it comes back. Slurm holds a
/// requeued job back for a while (two minutes, unless cred_expire says less).
constexpr std::chrono::seconds kComesBack{180};
constexpr std::chrono::milliseconds kLook{500};

void judge(Verdict& verdict, const Status& status, bool ended) {
  verdict.reason = status.message();
  if (ended || status.code() == Code::kGone) {
    verdict.kind = Verdict::Kind::kEnded;
  } else if (status.code() == Code::kCannotHold) {
    verdict.kind = Verdict::Kind::kNotHoldable;
  } else {
    verdict.kind = Verdict::Kind::kKept;
  }
}

/// A job of the coordinator's own.
Verdict requeue(ControlClient& client, Leaving job, const DrainWishes& wishes) {
  Verdict verdict;
  verdict.job = std::move(job);
  for (const JobStep step : verdict.job.steps) {
    wire::RequeueRequest request;
    request.set_job(step.job);
    request.set_step(step.step);
    request.set_max_wait_ms(wishes.max_wait_ms);
    request.set_force(wishes.force);
    const Result<wire::RequeueReply> reply = client.requeue(request);
    const Status status = reply ? wire::to_status(reply->outcome()) : reply.error();
    if (reply && reply->crid() != 0) verdict.crid = reply->crid();
    if (!status) {
      judge(verdict, status, reply && reply->ended());
      return verdict;
    }
    verdict.kind = Verdict::Kind::kRestarted;
    verdict.crid = reply->from();
    verdict.nodes.assign(reply->nodes().begin(), reply->nodes().end());
  }
  return verdict;
}

/// Until Slurm has started it again, or for as long as is waited for that.
void find_again(Verdict& verdict, uint64_t restarts) {
  const auto until = std::chrono::steady_clock::now() + kComesBack;
  verdict.kind = Verdict::Kind::kRequeued;
  verdict.reason = "Slurm has not started it again yet";
  while (std::chrono::steady_clock::now() < until) {
    const Result<json> now = ask_slurm({"job", std::to_string(verdict.job.job)});
    if (!now) {
      verdict.reason = now.error().message();
      return;
    }
    if (now->value("state", "") == "running" && now->value("restarts", uint64_t{0}) > restarts) {
      verdict.kind = Verdict::Kind::kRestarted;
      verdict.nodes = now->value("nodes", std::vector<std::string>());
      verdict.reason.clear();
      return;
    }
    std::this_thread::sleep_for(kLook);
  }
}

/// A job of Slurm's: see slurm_job.h.
Verdict requeue_by_slurm(ControlClient& client, Leaving job, const DrainWishes& wishes) {
  Verdict verdict;
  verdict.job = std::move(job);
  SlurmMove move;
  move.requeue = true;
  move.max_wait_ms = wishes.max_wait_ms;
  move.force = wishes.force;
  const SlurmMoved moved = move_slurm_job(client, verdict.job.job, move);
  verdict.crid = moved.crid;
  if (moved.status) {
    find_again(verdict, moved.restarts);
  } else {
    judge(verdict, moved.status, moved.ended);
  }
  return verdict;
}

}  // namespace

const char* Verdict::name_of(Kind kind) {
  switch (kind) {
    case Kind::kRestarted:
      return "restarted";
    case Kind::kRequeued:
      return "requeued";
    case Kind::kKept:
      return "kept";
    case Kind::kNotHoldable:
      return "not holdable";
    case Kind::kEnded:
      return "ended";
  }
  return "";
}

std::string Verdict::sentence() const {
  const std::string set = crid == 0 ? "" : fmt::format(" from checkpoint {}", crid);
  const std::string where = fmt::format("{}", fmt::join(job.nodes, ","));
  switch (kind) {
    case Kind::kRestarted:
      return fmt::format("restarted on {}{}", fmt::join(nodes, ","), set);
    case Kind::kRequeued:
      return fmt::format("requeued{}: {}", set, reason);
    case Kind::kKept:
      return fmt::format("kept running on {}: {}", where, reason);
    case Kind::kNotHoldable:
      return fmt::format("not holdable, kept running on {}: {}", where, reason);
    case Kind::kEnded:
      return fmt::format("has ended: {}", reason);
  }
  return "";
}

Verdict move_away(ControlClient& client, Leaving job, const DrainWishes& wishes) {
  return job.slurm ? requeue_by_slurm(client, std::move(job), wishes)
                   : requeue(client, std::move(job), wishes);
}

}  // namespace fermata::cli
