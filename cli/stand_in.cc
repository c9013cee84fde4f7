#include "cli/stand_in.h"

#include <fmt/format.h>

#include "cli/job_session.h"
#include "coord/describe.h"

namespace fermata::cli {

Result<node_agent::ControlReply> ask_or_stand_in(const Invocation& invocation,
                                                 const node_agent::JobRecord& record,
                                                 const node_agent::ControlRequest& request) {
  if (record.service) {
    return failure(Code::kUsage, fmt::format("job {} belongs to the coordinator: name it with "
                                             "--coordinator, $FERMATA_COORDINATOR or in the config "
                                             "file",
                                             to_string(record.job)));
  }
  node_agent::JobRegistry registry = invocation.registry();
  Result<node_agent::ControlReply> reply =
      node_agent::ask(registry.control_socket(record.job), request);
  if (reply || reply.error().code() != Code::kGone) return reply;

  FERMATA_TRY_RESULT(require_capabilities());
  FERMATA_ASSIGN(const node_agent::JobClaim claim, registry.claim(record.job));
  if (!record.alive()) return failure(Code::kGone, "the job has ended");
  FERMATA_ASSIGN(const Credentials owner, credentials_of(std::to_string(record.owner_uid)));
  FERMATA_ASSIGN(const Credentials caller, credentials_of_caller());
  if (caller.uid != 0 && caller.uid != owner.uid) {
    return failure(Code::kPermission, "the job is another user's; only its owner and root may ask");
  }
  FERMATA_ASSIGN(pod::Pod pod, pod::Pod::adopt(record.job, record.init, record.group));
  coord::Coordinator coordinator(record.folder, owner);
  node_agent::PodAgent agent({.job = record.job,
                              .init = record.init,
                              .group = record.group,
                              .owner = owner,
                              .write_bandwidth = invocation.config.write_bandwidth,
                              .compress = invocation.config.compress});
  if (request.kind == node_agent::ControlRequest::Kind::kAble) {
    return answer_able(coordinator, agent);
  }
  // Once, and by an agent that knows of no set before: a full one.
  SessionOptions once;
  once.track = "none";
  once.keep = request.keep.value_or(invocation.config.keep_sets);
  once.compress = request.compress;
  const coord::TriedSet tried = take_set(coordinator, record, owner, agent, once, request.end_job);
  // Nobody waits for this job any more: its group is ours to remove.
  if (request.end_job && tried.outcome.committed()) FERMATA_TRY_RESULT(pod.destroy());
  return node_agent::ControlReply{tried.outcome.status, coord::describe_json(tried)};
}

}  // namespace fermata::cli
