// Sets of a job: taken, and asked about.
#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "common/log.h"
#include "common/time_parse.h"
#include "coord/alarm.h"
#include "coord/describe.h"
#include "coord/job.h"
#include "coord/orders.h"
#include "coord/remote_agent.h"
#include "coord/wire.h"
#include "proto/outcome.h"
#include "storage/printable.h"

namespace fermata::coord {
namespace {

using nlohmann::json;

std::string text_of(const json& value) {
  return value.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace

Status Job::ready_for_set() const {
  for (size_t i = 0; i < missing_.size(); ++i) {
    const stored::Pod& pod = record_.pods(static_cast<int>(i));
    if (pod.ended()) {
      return {Code::kGone, fmt::format("pod {} on {} has ended already", i, pod.node())};
    }
    if (missing_[i]) {
      return {Code::kGone, fmt::format("node {} does not answer now", pod.node())};
    }
  }
  return Status::ok();
}

Status Job::begin_work() {
  if (ending_) return {Code::kGone, "the job is being ended"};
  // With the lock that the callback takes which stops give_up_: it sees the one before, or this.
  if (stop_.stop_requested()) return {Code::kGone, "the coordinator is being stopped"};
  give_up_ = std::stop_source();
  return Status::ok();
}

TriedSet Job::attempt(const Wish& wish, const JobDescription& job, std::span<Agent* const> agents) {
  if (wish.checkpoint_dir.empty()) return coordinator_->take_set(job, agents, wish.end_job);
  Coordinator elsewhere(wish.checkpoint_dir, owner_, &context_.store);
  elsewhere.deadlines() = coordinator_->deadlines();
  elsewhere.patience() = coordinator_->patience();
  return elsewhere.take_set(job, agents, wish.end_job);
}

TriedSet Job::take_set(const Wish& wish) {
  JobDescription job;
  job.requested = wish.requested;
  std::stop_source give_up;
  TriedSet tried;
  job.job = step_;
  job.owner = owner_;
  std::vector<std::string> nodes;
  {
    const std::lock_guard lock(mutex_);
    tried.outcome.status = ready_for_set();
    job.ranks = static_cast<uint32_t>(record_.pod_of_rank_size());
    job.command = {record_.command().begin(), record_.command().end()};
    job.pod_of_rank = {record_.pod_of_rank().begin(), record_.pod_of_rank().end()};
    for (const stored::Pod& pod : record_.pods()) {
      nodes.push_back(pod.node());
      job.hosts.push_back(pod.known_as());
    }
    // Checked when the job began.
    job.external_tcp = parse_external_tcp(record_.external_tcp()).value_or(ExternalTcp::kRefuse);
    job.track = record_.track().empty() ? context_.options.track : record_.track();
    job.compress = wish.compress.empty() ? record_.compress() : wish.compress;
    job.full_every = record_.full_every() == 0 ? context_.options.full_every : record_.full_every();
    if (wish.keep) {
      job.keep = *wish.keep;
    } else if (wish.checkpoint_dir.empty()) {  // what lies elsewhere is the user's to keep
      job.keep = record_.has_keep() ? record_.keep() : context_.options.keep;
    }
    if (tried.outcome.status) tried.outcome.status = enabled();
    if (tried.outcome.status) tried.outcome.status = begin_work();
    if (tried.outcome.status) {
      give_up = give_up_;
      state_ = State::kCheckpointing;
      killing_ = wish.end_job;
      unasked_ = !wish.asked_for;
      began_ = std::time(nullptr);
    }
  }
  if (tried.outcome.status) {
    job.own_hosts = context_.nodes.addresses_of(nodes);
    std::vector<std::unique_ptr<RemoteAgent>> pods;
    std::vector<Agent*> agents;
    for (uint32_t i = 0; i < nodes.size(); ++i) {
      pods.push_back(std::make_unique<RemoteAgent>(context_.fleet, context_.gate, nodes[i],
                                                   PodId{step_, i, start_}, give_up.get_token()));
      agents.push_back(pods.back().get());
    }
    Alarm alarm(wish.max_wait, [&give_up] { give_up.request_stop(); });
    tried = attempt(wish, job, agents);
    if (alarm.rang() && !tried.outcome.committed()) {
      tried.outcome.status = {
          Code::kTimeout,
          fmt::format("not committed within {}, as was asked for", format_duration(wish.max_wait))};
    }
  }
  const std::lock_guard lock(mutex_);
  state_ = State::kRunning;
  killing_ = false;
  unasked_ = false;
  began_ = 0;
  const std::string told = describe(tried);
  if (wish.asked_for) remember(tried.outcome.status, told);
  if (tried.outcome.committed()) {
    note_duration(tried.outcome.total);
    // One that lies elsewhere is the user's; but where it ended the job, it is what goes on.
    if (wish.checkpoint_dir.empty() || wish.end_job) {
      record_.set_last_crid(tried.crid.value);
      committed_ = std::chrono::steady_clock::now();
    }
    if (!wish.checkpoint_dir.empty() && wish.end_job) {
      record_.set_checkpoint_dir(wish.checkpoint_dir.native());
    }
    last_error_.clear();
    killed_ = wish.end_job;
    record_.set_killed(killed_);
    log_info(fmt::format("job {}: {}", to_string(step_), told));
  } else {
    last_error_ = told;
    log_warning(fmt::format("job {}: {}", to_string(step_), storage::printable(last_error_)));
    // Pods that ended meanwhile were taken for killed ones.
    for (uint32_t i = 0; wish.end_job && i < missing_.size(); ++i) {
      if (record_.pods(static_cast<int>(i)).ended()) judge_end(i, {});
    }
  }
  if (killed_) end_because("", 0);
  unsaved_ = true;
  return tried;
}

Status Job::count_in(bool if_idle) {
  const std::lock_guard lock(mutex_);
  Status status = if_idle ? idle() : Status::ok();
  if (status) ++sets_asked_;
  return status;
}

void Job::checkpoint(const wire::CheckpointRequest& request,
                     Requests::Respond<wire::CheckpointReply> respond) {
  if (const Status counted = count_in(request.if_idle()); !counted) {
    wire::CheckpointReply refused;
    *refused.mutable_outcome() = wire::to_outcome(counted);
    return respond(std::move(refused));
  }
  const Time requested = Clock::steady().now();
  ask([this, request, requested, respond = std::move(respond)](const Status& status) {
    wire::CheckpointReply reply;
    if (status) {
      Wish wish;
      wish.requested = requested;
      wish.end_job = request.end_job();
      wish.compress = request.compress();
      if (request.has_keep()) wish.keep = request.keep();
      wish.max_wait = std::chrono::milliseconds(request.max_wait_ms());
      wish.checkpoint_dir = request.checkpoint_dir();
      const TriedSet tried = take_set(wish);
      *reply.mutable_outcome() = wire::to_outcome(tried.outcome.status);
      reply.set_crid(tried.crid.value);
      reply.set_json(describe_json(tried));
      save();
    } else {
      *reply.mutable_outcome() = wire::to_outcome(status);
    }
    {
      const std::lock_guard lock(mutex_);
      --sets_asked_;
    }
    respond(std::move(reply));
  });
}

wire::AbleReply Job::ask_able(LeavingJudge& judge) {
  std::vector<Errand> errands;
  std::vector<PodConnections> ends;
  ExternalTcp external_tcp = ExternalTcp::kRefuse;
  wire::AbleReply reply;
  {
    const std::lock_guard lock(mutex_);
    Status ready = ready_for_set();
    if (ready) ready = enabled();
    if (ready) ready = begin_work();
    if (!ready) {
      *reply.mutable_outcome() = wire::to_outcome(ready);
      reply.set_json(text_of({{"able", false}, {"reason", ready.message()}}));
      return reply;
    }
    external_tcp = parse_external_tcp(record_.external_tcp()).value_or(ExternalTcp::kRefuse);
    for (uint32_t i = 0; i < missing_.size(); ++i) {
      Errand errand{record_.pods(static_cast<int>(i)).node(), {}};
      *errand.order.mutable_pod() = to_wire(pod_of(record_, i));
      errand.order.mutable_able();
      errands.push_back(std::move(errand));
    }
  }
  std::vector<std::string> nodes;
  for (const Errand& errand : errands) nodes.push_back(errand.node);
  const Errands answers =
      run_errands(context_.fleet, std::move(errands), context_.options.deadlines[Phase::kCapture],
                  Until::kAllAnswered, give_up_.get_token());

  // Every object that stands in the way, of every pod.
  Status obstacle;
  std::string sentence;
  const auto note = [&](const Status& status) {
    // What passes by itself is not the reason while there is another.
    const bool passes = !status && status.code() == Code::kBusy;
    if (obstacle || (obstacle.code() == Code::kBusy && !passes)) obstacle = status;
    sentence += (sentence.empty() ? "" : "\n") + status.message();
  };
  wire::AbleReport sum;
  std::vector<std::vector<image::OutsideConnection>> connections(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!answers.done[i]) {
      note(answers.done[i].error().within("on " + nodes[i]));
      continue;
    }
    const wire::Done& done = *answers.done[i];
    sum.set_memory_bytes(sum.memory_bytes() + done.able().memory_bytes());
    sum.set_image_bytes(sum.image_bytes() + done.able().image_bytes());
    sum.set_processes(sum.processes() + done.able().processes());
    sum.set_threads(sum.threads() + done.able().threads());
    sum.set_stand_still_ns(std::max(sum.stand_still_ns(), done.able().stand_still_ns()));
    connections[i] = {done.connections().begin(), done.connections().end()};
  }
  if (obstacle && external_tcp == ExternalTcp::kRefuse) {
    for (size_t i = 0; i < nodes.size(); ++i) ends.push_back({nodes[i], connections[i]});
    const Addresses hosts = context_.nodes.addresses_of(nodes);
    const Status leaving = judge.judge(ends, leaving_connections(ends, hosts), hosts);
    if (!leaving) note(leaving);
  }
  json out = {{"able", obstacle.is_ok()}};
  if (!obstacle) {
    *reply.mutable_outcome() = wire::to_outcome({obstacle.code(), sentence});
    out["reason"] = sentence;
  } else {
    out["memory_bytes"] = sum.memory_bytes();
    out["image_bytes"] = sum.image_bytes();
    out["processes"] = sum.processes();
    out["threads"] = sum.threads();
    out["stand_still_ms"] = static_cast<double>(sum.stand_still_ns()) / 1e6;
    const Result<double> rate = coordinator_->write_rate();
    if (rate) {
      out["seconds"] = static_cast<double>(sum.stand_still_ns()) / 1e9 +
                       static_cast<double>(sum.image_bytes()) / *rate;
      out["write_bytes_per_second"] = *rate;
    } else {
      out["folder_problem"] = rate.error().message();
    }
  }
  reply.set_json(text_of(out));
  return reply;
}

void Job::able(Requests::Respond<wire::AbleReply> respond) {
  ask([this, respond = std::move(respond)](const Status& status) {
    wire::AbleReply reply;
    if (status) {
      LeavingJudge judge(/*cut=*/false);
      SameEachTime same(coordinator_->patience());
      try_patiently(coordinator_->patience(), [&] {
        reply = ask_able(judge);
        const Status told = wire::to_status(reply.outcome());
        same.note(told, /*judged=*/true);
        return told.code();
      });
      const Status verdict = same.verdict();
      *reply.mutable_outcome() = wire::to_outcome(verdict);
      // One sentence, in both forms of the answer.
      json said = json::parse(reply.json(), nullptr, /*allow_exceptions=*/false);
      if (!verdict && said.is_object() && said.contains("reason")) {
        said["reason"] = verdict.message();
        reply.set_json(text_of(said));
      }
    } else {
      *reply.mutable_outcome() = wire::to_outcome(status);
    }
    respond(std::move(reply));
  });
}

}  // namespace fermata::coord
