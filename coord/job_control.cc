// Signals to a job, what stands between it and its sets, and sets that end it so that it goes on
// elsewhere.
#include <fmt/format.h>

#include <csignal>
#include <ctime>
#include <memory>
#include <mutex>
#include <utility>

#include "coord/job.h"
#include "coord/wire.h"
#include "proto/outcome.h"

namespace fermata::coord {
namespace {

/// What the pods say of a signal. The last of them answers who sent it.
class SignalAnswers {
 public:
  SignalAnswers(size_t pods, Requests::Respond<wire::SignalReply> respond)
      : open_(pods), respond_(std::move(respond)) {}

  void note(const std::string& pod, const Status& status) {
    const std::unique_lock lock(mutex_);
    if (!status) {
      const std::string before = failed_ ? std::string() : failed_.message() + "; ";
      failed_ = {failed_ ? status.code() : failed_.code(),
                 fmt::format("{}{}: {}", before, pod, status.message())};
    }
    if (--open_ != 0) return;
    wire::SignalReply reply;
    *reply.mutable_outcome() = wire::to_outcome(failed_);
    respond_(std::move(reply));
  }

 private:
  std::mutex mutex_;
  size_t open_;
  Status failed_;
  Requests::Respond<wire::SignalReply> respond_;
};

}  // namespace

void Job::signal(int signo, Requests::Respond<wire::SignalReply> respond) {
  std::vector<std::pair<std::string, PodId>> pods;
  {
    const std::lock_guard lock(mutex_);
    for (uint32_t i = 0; i < missing_.size(); ++i) {
      const stored::Pod& pod = record_.pods(static_cast<int>(i));
      if (!pod.ended()) pods.emplace_back(pod.node(), pod_of(record_, i));
    }
  }
  if (pods.empty()) {
    wire::SignalReply reply;
    *reply.mutable_outcome() = wire::to_outcome(
        {Code::kGone, fmt::format("all pods of job {} have ended", to_string(step_))});
    return respond(std::move(reply));
  }
  const auto answers = std::make_shared<SignalAnswers>(pods.size(), std::move(respond));
  for (const auto& [node, pod] : pods) {
    wire::Order order;
    *order.mutable_pod() = to_wire(pod);
    order.mutable_signal()->set_signal(signo);
    context_.fleet.send(
        node, std::move(order),
        [answers, name = fmt::format("pod {} on {}", pod.pod, node)](Result<wire::Done> done) {
          answers->note(name, done ? wire::to_status(done->outcome()) : done.error());
        });
  }
}

Status Job::idle() const {
  if (state_ != State::kCheckpointing && sets_asked_ == 0) return Status::ok();
  return {Code::kBusy,
          fmt::format("a checkpoint of job {} is being taken already", to_string(step_))};
}

Status Job::enabled() const {
  if (record_.disabled() == 0) return Status::ok();
  return {
      Code::kBusy,
      fmt::format("checkpoints of job {} are disabled; they are taken again once they are "
                  "enabled as often as they were disabled ({} {} missing)",
                  to_string(step_), record_.disabled(), record_.disabled() == 1 ? "is" : "are")};
}

void Job::remember(const Status& status, const std::string& message) {
  record_.set_last_code(exit_code_of(status.code()));
  record_.set_last_message(message);
  record_.set_last_request(std::time(nullptr));
}

wire::ControlReply Job::control(wire::ControlRequest::Action action) {
  const std::lock_guard lock(mutex_);
  const uint32_t before = record_.disabled();
  if (action == wire::ControlRequest::DISABLE && before < UINT32_MAX) {
    record_.set_disabled(before + 1);
  }
  // More often enabled than disabled is no harm.
  if (action == wire::ControlRequest::ENABLE && before > 0) record_.set_disabled(before - 1);
  if (record_.disabled() != before) {
    unsaved_ = true;
    changed_.notify_all();
  }
  wire::ControlReply reply = control_reply_of(record_);
  reply.set_began(began_);
  return reply;
}

wire::ControlReply Job::control_reply_of(const stored::Job& record) {
  wire::ControlReply reply;
  reply.mutable_outcome();
  reply.set_disabled(record.disabled());
  reply.set_last_code(record.last_code());
  reply.set_last_message(record.last_message());
  reply.set_last_time(record.last_request());
  reply.set_slurm(record.slurm());
  return reply;
}

void Job::requeue(const wire::RequeueRequest& request,
                  Requests::Respond<wire::RequeueReply> respond) {
  if (const Status counted = count_in(request.if_idle()); !counted) {
    wire::RequeueReply refused;
    *refused.mutable_outcome() = wire::to_outcome(counted);
    return respond(std::move(refused));
  }
  const Time requested = Clock::steady().now();
  ask([this, request, requested, respond = std::move(respond)](const Status& status) {
    if (status) {
      try_requeue(request, requested, respond);
    } else {
      wire::RequeueReply reply;
      *reply.mutable_outcome() = wire::to_outcome(status);
      respond(std::move(reply));
    }
    const std::lock_guard lock(mutex_);
    --sets_asked_;
  });
}

void Job::try_requeue(const wire::RequeueRequest& request, Time requested,
                      const Requests::Respond<wire::RequeueReply>& respond) {
  const stored::Job now = record();
  std::vector<uint32_t> ranks(static_cast<size_t>(now.pods_size()), 0);
  for (const uint32_t pod : now.pod_of_rank()) ++ranks[pod];
  const std::vector<std::string> names(request.nodes().begin(), request.nodes().end());
  // Who has nowhere to go is not ended; a set of it is worth having.
  const Status room = context_.nodes.room_elsewhere(step_, ranks, names, node_of_);

  Wish wish;
  wish.requested = requested;
  wish.end_job = room.is_ok() || request.force();
  wish.max_wait = std::chrono::milliseconds(request.max_wait_ms());
  wish.checkpoint_dir = request.checkpoint_dir();
  const TriedSet tried = take_set(wish);
  wire::RequeueReply reply;
  if (tried.outcome.committed()) reply.set_crid(tried.crid.value);
  Status status = tried.outcome.status;
  if (status && !wish.end_job) status = room.within("there is no other place for it now");
  *reply.mutable_outcome() = wire::to_outcome(status);
  bool ended = false;
  {
    const std::lock_guard lock(mutex_);
    if (!status && request.force()) {
      end_because("it was ended by force: " + status.message(), 128 + SIGKILL);
    }
    ended = killed_ || (!status && request.force());
    reply.set_ended(ended);
    if (ended) requeued_ = Requeued{request, reply, respond, {}};
  }
  save();
  if (!ended) respond(std::move(reply));
}

}  // namespace fermata::coord
