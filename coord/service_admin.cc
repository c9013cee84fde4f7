// What admins ask of the service, and jobs that move: requeued, nodes drained.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "common/log.h"
#include "coord/service.h"
#include "proto/outcome.h"
#include "storage/printable.h"

namespace fermata::coord {

void Service::control(const Caller& caller, const wire::ControlRequest& request,
                      Respond<wire::ControlReply> respond) {
  const Result<std::shared_ptr<Job>> job = job_of(caller, {request.job(), request.step()});
  if (job) return respond((*job)->control(request.action()));
  wire::ControlReply reply;
  Status status = job.error();
  // What became of the last request can be asked of a job that has ended, too.
  const std::optional<stored::Job> before = ended({request.job(), request.step()});
  if (before && request.action() == wire::ControlRequest::TELL) {
    status = may(caller, step_of(*before), before->owner_uid(), before->owner());
    if (status) reply = Job::control_reply_of(*before);
  }
  *reply.mutable_outcome() = wire::to_outcome(status);
  respond(std::move(reply));
}

void Service::requeue(const Caller& caller, const wire::RequeueRequest& request,
                      Respond<wire::RequeueReply> respond) {
  const Result<std::shared_ptr<Job>> job = job_of(caller, {request.job(), request.step()});
  Status status = job ? Status::ok() : job.error();
  if (job && (*job)->record().slurm()) {
    status = {Code::kUsage, fmt::format("job {} is a step of Slurm's: Slurm requeues it, with the "
                                        "whole job",
                                        to_string((*job)->step()))};
  }
  if (status) return (*job)->requeue(request, std::move(respond));
  wire::RequeueReply reply;
  *reply.mutable_outcome() = wire::to_outcome(status);
  respond(std::move(reply));
}

std::shared_ptr<Job> Service::go_on(const stored::Job& ended, Requeued requeued,
                                    const std::stop_token& stop) {
  const Result<Begun> begun = [&]() -> Result<Begun> {
    if (ended.last_crid() == 0) {
      return failure(Code::kNotFound, "it had no checkpoint to be restarted from");
    }
    wire::RestartRequest request;
    request.set_job(ended.job());
    request.set_step(ended.step());
    request.set_crid(ended.last_crid());
    request.set_checkpoint_dir(ended.checkpoint_dir());
    request.set_same_interval(true);
    *request.mutable_nodes() = requeued.request.nodes();
    // Whoever asked, it is its owner's, and nothing is done with other rights.
    return begin_restart({ended.owner_uid(), ended.owner_uid(), false}, request, stop);
  }();
  wire::RequeueReply& reply = requeued.reply;
  if (!begun) {
    const Status status = begun.error().within("the job has ended, and was not restarted");
    log_error(
        fmt::format("job {}: {}", to_string(step_of(ended)), storage::printable(status.message())));
    *reply.mutable_outcome() = wire::to_outcome(status);
    requeued.respond(std::move(reply));
    for (const Respond<wire::WaitReply>& respond : requeued.waiting) {
      respond(wait_reply_of(ended));
    }
    return nullptr;
  }
  reply.set_from(begun->reply.crid());
  *reply.mutable_nodes() = begun->reply.nodes();
  *reply.mutable_notes() = begun->reply.notes();
  requeued.respond(std::move(reply));
  for (Respond<wire::WaitReply>& respond : requeued.waiting) begun->job->wait(std::move(respond));
  return begun->job;
}

Status Service::drain_nodes(const Caller& caller, const wire::DrainRequest& request) {
  if (request.nodes().empty()) return {Code::kUsage, "no node is named"};
  for (const std::string& name : request.nodes()) {
    if (!nodes_.known(name)) {
      return {Code::kNotFound,
              fmt::format("node {} is not known here (fermata nodes lists all)", name)};
    }
  }
  const Result<Credentials> user = credentials_of(std::to_string(caller.uid));
  for (const std::string& name : request.nodes()) {
    if (!request.drain()) {
      FERMATA_TRY(store_.undrain(name));
      nodes_.undrain(name);
      log_info(fmt::format("node {} takes jobs again: uid {} says so", name, caller.uid));
      continue;
    }
    const DrainedNode node{name, request.reason(), user ? user->name : std::to_string(caller.uid),
                           std::time(nullptr)};
    FERMATA_TRY(store_.drain(node));
    nodes_.set_drained(node);
    log_info(fmt::format("node {} is drained by uid {}: {}", name, caller.uid,
                         storage::printable(request.reason())));
  }
  return Status::ok();
}

void Service::drain(const Caller& caller, const wire::DrainRequest& request,
                    Respond<wire::NodesReply> respond) {
  wire::NodesReply reply;
  *reply.mutable_outcome() = wire::to_outcome(drain_nodes(caller, request));
  for (wire::NodeInfo& node : nodes_.list()) {
    const auto named = std::find(request.nodes().begin(), request.nodes().end(), node.node());
    if (named != request.nodes().end()) *reply.add_nodes() = std::move(node);
  }
  respond(std::move(reply));
}

}  // namespace fermata::coord
