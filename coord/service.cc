#include "coord/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>

#include "common/compression.h"
#include "common/log.h"
#include "coord/launch.h"
#include "coord/wire.h"
#include "proto/outcome.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

/// Of one user at a time: each may wait for a folder of theirs for as long as they like.
constexpr size_t kMostBegins = 64;

Status stopping() { return {Code::kGone, "the coordinator is being stopped; try again"}; }

}  // namespace

Status Service::may(const Caller& caller, JobStep step, uid_t owner_uid, const std::string& owner) {
  if (caller.admin || caller.uid == owner_uid) return Status::ok();
  return {Code::kPermission, fmt::format("job {} is user {}'s; only its owner and admins may ask",
                                         to_string(step), owner)};
}

Service::Service(Fleet& fleet, Store& store, ServiceOptions options)
    : fleet_(fleet),
      store_(store),
      options_(std::move(options)),
      gate_(options_.max_writers),
      steps_(options_.offers),
      verdicts_(options_.slurm, workers_,
                std::chrono::duration_cast<std::chrono::milliseconds>(options_.job.term_verdict)) {}

Service::~Service() { stop(); }

void Service::stop() { workers_.stop(); }

Status Service::adopt() {
  FERMATA_ASSIGN_STATUS(const std::vector<DrainedNode> drained, store_.drained());
  for (const DrainedNode& node : drained) nodes_.set_drained(node);
  FERMATA_ASSIGN_STATUS(std::vector<stored::Job> records, store_.jobs());
  for (stored::Job& record : records) {
    const JobStep step = step_of(record);
    if (record.state() == stored::Job::STARTING) {
      // Half made: its agents end what there is of it when they come back.
      record.set_state(stored::Job::ENDED);
      record.set_ended(record.started());
      record.set_exit_status(1);
      record.set_sentence(fmt::format("job {}: the coordinator was ended while it was starting it",
                                      to_string(step)));
      // What of it had not begun is offered again.
      if (record.slurm()) steps_.refused(pod_of(record, 0), {record.sentence(), 1});
      FERMATA_TRY(store_.put(record));
    }
    if (record.state() == stored::Job::ENDED) {
      ended_[step] = std::move(record);
      continue;
    }
    std::vector<std::string> nodes;
    std::vector<uint32_t> ranks(static_cast<size_t>(record.pods_size()), 0);
    for (const stored::Pod& pod : record.pods()) nodes.push_back(pod.node());
    for (const uint32_t pod : record.pod_of_rank()) ++ranks[pod];
    nodes_.adopt(step, nodes, ranks);
    auto job = std::make_shared<Job>(context(), std::move(record));
    job->await_nodes();
    enter(job);
    workers_.start([this, job](const std::stop_token& stop) {
      const stored::Job known = job->record();
      Result<Credentials> owner = credentials_of(std::to_string(known.owner_uid()));
      if (!owner) {
        log_error(fmt::format("job {}: no sets can be taken of it: {}", to_string(job->step()),
                              owner.error().message()));
        owner = Credentials{known.owner_uid(), known.owner_uid(), {}, known.owner(), "/"};
      }
      if (known.slurm() && known.owner_gid() != 0) {
        owner->gid = known.owner_gid();
        owner->groups = {known.owner_groups().begin(), known.owner_groups().end()};
      }
      auto coordinator = std::make_shared<Coordinator>(known.checkpoint_dir(), *owner, &store_);
      if (const Status settled = coordinator->settle_attempts(job->step());
          !settled && settled.code() != Code::kNotFound) {
        log_warning(fmt::format("job {}: what an earlier attempt left stays: {}",
                                to_string(job->step()), storage::printable(settled.message())));
      }
      // What was committed when we died, and could not be noted any more.
      if (const Result<ChosenSet> newest = coordinator->choose(job->step(), std::nullopt)) {
        job->found_set(newest->manifest.crid, newest->manifest.result == "killed");
      }
      job->begun(std::move(coordinator), *std::move(owner));
      tend(job, stop);
    });
  }
  workers_.start([this](const std::stop_token& stop) { refuse_overdue(stop); });
  return Status::ok();
}

// ---- agents

Result<wire::Welcome> Service::agent_attached(const wire::Hello& hello) {
  const std::string& node = hello.node();
  nodes_.attached(hello);
  wire::Welcome welcome;
  // Jobs that end while this is done are told as well: what is there of them has to go.
  std::map<std::shared_ptr<Job>, std::vector<PodId>> running;
  for (const wire::LivingPod& living : hello.pods()) {
    const PodId pod = from_wire(living.id());
    const std::shared_ptr<Job> job = find(pod.step);
    if (job && job->has_pod(pod, node)) {
      running[job].push_back(pod);
    } else if (job || ended(pod.step)) {
      // Of a start that is dead, or of a job that ended without it.
      log_warning(fmt::format("pod {} on {} belongs to no living start: it is ended",
                              to_string(pod), node));
      destroy_untended(fleet_, node, pod);
    } else {
      *welcome.add_unknown() = living.id();
    }
  }
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [step, job] : jobs_) running.try_emplace(job);
  }
  for (const auto& [job, pods] : running) job->node_back(node, pods);
  return welcome;
}

void Service::agent_lost(const std::string& node) {
  nodes_.lost(node);
  std::vector<std::shared_ptr<Job>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [step, job] : jobs_) all.push_back(job);
  }
  for (const std::shared_ptr<Job>& job : all) job->node_lost(node);
}

void Service::pod_ended(const std::string& node, const wire::PodEnded& ended) {
  const PodId pod = from_wire(ended.id());
  const std::shared_ptr<Job> job = find(pod.step);
  if (job && job->has_pod(pod, node)) job->pod_ended(ended);
}

void Service::exchange(const std::string& node, const wire::ExchangeUp& message) {
  const PodId pod = from_wire(message.pod());
  const std::shared_ptr<Job> job = find(pod.step);
  if (job && job->has_pod(pod, node)) job->exchange(message);
}

// ---- users and admins

Status Service::enter_begin(const Caller& caller) {
  const std::lock_guard lock(mutex_);
  size_t& count = asked_by_[caller.uid];
  if (!caller.admin && count >= kMostBegins) {
    return {Code::kBusy, fmt::format("{} starts and restarts of user {} are under way already; try "
                                     "again when some of them are done",
                                     count, caller.uid)};
  }
  ++count;
  return Status::ok();
}

void Service::leave_begin(const Caller& caller) {
  const std::lock_guard lock(mutex_);
  const auto found = asked_by_.find(caller.uid);
  if (--found->second == 0) asked_by_.erase(found);
}

void Service::start_begin(const Caller& caller, const Respond<wire::RunReply>& respond,
                          std::function<Result<Begun>(const std::stop_token&)> begin) {
  const auto refuse = [](const Status& status) {
    wire::RunReply reply;
    *reply.mutable_outcome() = wire::to_outcome(status);
    return reply;
  };
  if (const Status entered = enter_begin(caller); !entered) return respond(refuse(entered));
  const bool started = workers_.start(
      [this, caller, respond, refuse, begin = std::move(begin)](const std::stop_token& stop) {
        Result<Begun> begun = begin(stop);
        leave_begin(caller);
        if (!begun) return respond(refuse(begun.error()));
        begun->reply.mutable_outcome();
        respond(std::move(begun->reply));
        tend(begun->job, stop);
      });
  if (started) return;
  leave_begin(caller);
  respond(refuse(stopping()));
}

void Service::run(const Caller& caller, const wire::RunRequest& request,
                  Respond<wire::RunReply> respond) {
  start_begin(caller, respond, [this, caller, request](const std::stop_token& stop) {
    return begin_run(caller, request, stop);
  });
}

void Service::restart(const Caller& caller, const wire::RestartRequest& request,
                      Respond<wire::RunReply> respond) {
  start_begin(caller, respond, [this, caller, request](const std::stop_token& stop) {
    return begin_restart(caller, request, stop);
  });
}

void Service::wait(const Caller& caller, const wire::JobRequest& request,
                   Respond<wire::WaitReply> respond) {
  const JobStep step{request.job(), request.step()};
  const Result<std::shared_ptr<Job>> job = job_of(caller, step);
  if (job) return (*job)->wait(std::move(respond));
  wire::WaitReply reply;
  const std::optional<stored::Job> before = ended(step);
  if (before) {
    const Status allowed = may(caller, step, before->owner_uid(), before->owner());
    if (allowed) return respond(wait_reply_of(*before));
    *reply.mutable_outcome() = wire::to_outcome(allowed);
  } else {
    *reply.mutable_outcome() = wire::to_outcome(job.error());
  }
  respond(std::move(reply));
}

void Service::signal(const Caller& caller, const wire::SignalRequest& request,
                     Respond<wire::SignalReply> respond) {
  const Result<std::shared_ptr<Job>> job = job_of(caller, {request.job(), request.step()});
  Status status = job ? Status::ok() : job.error();
  if (status && (request.signal() <= 0 || request.signal() > SIGRTMAX)) {
    status = {Code::kUsage, fmt::format("there is no signal {}", request.signal())};
  }
  if (status) return (*job)->signal(request.signal(), std::move(respond));
  wire::SignalReply reply;
  *reply.mutable_outcome() = wire::to_outcome(status);
  respond(std::move(reply));
}

void Service::checkpoint(const Caller& caller, const wire::CheckpointRequest& request,
                         Respond<wire::CheckpointReply> respond) {
  const Result<std::shared_ptr<Job>> job = job_of(caller, {request.job(), request.step()});
  const Status known = check_compression(request.compress());
  if (job && known) return (*job)->checkpoint(request, std::move(respond));
  wire::CheckpointReply reply;
  *reply.mutable_outcome() = wire::to_outcome(job ? known : job.error());
  respond(std::move(reply));
}

void Service::able(const Caller& caller, const wire::JobRequest& request,
                   Respond<wire::AbleReply> respond) {
  const Result<std::shared_ptr<Job>> job = job_of(caller, {request.job(), request.step()});
  if (job) return (*job)->able(std::move(respond));
  wire::AbleReply reply;
  *reply.mutable_outcome() = wire::to_outcome(job.error());
  respond(std::move(reply));
}

void Service::jobs(const Caller& caller, Respond<wire::JobsReply> respond) {
  wire::JobsReply reply;
  reply.mutable_outcome();
  std::vector<std::shared_ptr<Job>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [step, job] : jobs_) all.push_back(job);
  }
  for (const std::shared_ptr<Job>& job : all) {
    wire::JobInfo info = job->info();
    // What others run where is everybody's; with which arguments is not.
    if (!caller.admin && caller.uid != job->owner_uid()) {
      info.clear_command();
      info.clear_checkpoint_dir();
      info.clear_last_error();
    }
    *reply.add_jobs() = std::move(info);
  }
  respond(std::move(reply));
}

void Service::nodes(const Caller& /*caller*/, Respond<wire::NodesReply> respond) {
  wire::NodesReply reply;
  reply.mutable_outcome();
  for (wire::NodeInfo& node : nodes_.list()) *reply.add_nodes() = std::move(node);
  respond(std::move(reply));
}

// ---- the jobs

std::shared_ptr<Job> Service::find(JobStep step) const {
  const std::lock_guard lock(mutex_);
  const auto found = jobs_.find(step);
  return found == jobs_.end() ? nullptr : found->second;
}

Result<std::shared_ptr<Job>> Service::job_of(const Caller& caller, JobStep step) const {
  std::shared_ptr<Job> job = find(step);
  if (!job) {
    return failure(Code::kNotFound, fmt::format("no job {} runs (fermata jobs lists those that do)",
                                                to_string(step)));
  }
  FERMATA_TRY_RESULT(may(caller, step, job->owner_uid(), job->record().owner()));
  return job;
}

Result<Service::Claim> Service::claim(JobStep step) {
  const std::lock_guard lock(mutex_);
  if (jobs_.count(step) != 0) return Failure(still_runs(step));
  if (!claimed_.insert(step).second) {
    return failure(Code::kBusy, fmt::format("job {} is being restarted already", to_string(step)));
  }
  return Claim(*this, step);
}

std::optional<Service::Claim> Service::claim_unused(JobStep step) {
  const std::lock_guard lock(mutex_);
  if (jobs_.contains(step) || ended_.contains(step) || !claimed_.insert(step).second) {
    return std::nullopt;
  }
  return Claim(*this, step);
}

Status Service::still_runs(JobStep step) {
  return {Code::kBusy, fmt::format("job {} still runs; end it first, for example with `fermata "
                                   "checkpoint {} --kill`",
                                   to_string(step), to_string(step))};
}

void Service::unclaim(JobStep step) {
  const std::lock_guard lock(mutex_);
  claimed_.erase(step);
}

JobContext Service::context() {
  return {fleet_,
          nodes_,
          store_,
          gate_,
          options_.job,
          options_.slurm,
          [this](JobStep step) { return last_set_taken(step); },
          [this](JobStep step, bool taken) { term_settled(step, taken); },
          [this](uint64_t job, const TermVerdicts::Heard& heard) { verdicts_.ask(job, heard); }};
}

void Service::enter(const std::shared_ptr<Job>& job) {
  const std::lock_guard lock(mutex_);
  jobs_[job->step()] = job;
}

std::optional<stored::Job> Service::ended(JobStep step) const {
  const std::lock_guard lock(mutex_);
  const auto found = ended_.find(step);
  return found == ended_.end() ? std::nullopt : std::optional(found->second);
}

void Service::forget(const std::shared_ptr<Job>& job) {
  stored::Job record = job->record();
  bool others_wait = false;
  {
    const std::lock_guard lock(mutex_);
    ended_[job->step()] = std::move(record);
    jobs_.erase(job->step());
    held_for_end_.erase(job->step());
    terms_.erase(job->step());
    others_wait = std::any_of(held_for_end_.begin(), held_for_end_.end(),
                              [&](const JobStep& step) { return step.job == job->step().job; });
  }
  judge_terms(job->step().job, Stragglers::kWait);
  if (!others_wait) return;
  if (const Status asked = requeue_if_all_held(job->step().job); !asked) {
    log_warning(fmt::format("job {}: {}", job->step().job, storage::printable(asked.message())));
  }
}

void Service::give_up(const std::shared_ptr<Job>& job, const Status& status) {
  // In this order: an agent that comes back after the second is told by the first.
  job->never_ran(status);
  destroy(fleet_, job->record());
  job->finish();
  forget(job);
}

void Service::tend(std::shared_ptr<Job> job, const std::stop_token& stop) {
  while (job) {
    job->work(stop);
    if (stop.stop_requested()) return;
    forget(job);
    std::optional<Requeued> requeued = job->requeued();
    job = requeued ? go_on(job->record(), *std::move(requeued), stop) : nullptr;
  }
}

}  // namespace fermata::coord
