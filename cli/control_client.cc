#include "cli/control_client.h"

#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "common/log.h"
#include "proto/channel.h"
#include "proto/control.grpc.pb.h"
#include "proto/outcome.h"
#include "proto/protocol.h"

namespace fermata::cli {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

/// How long an answer may take. What the coordinator gives a deadline itself has more here.
constexpr seconds kForLists = seconds(30);
/// Who sent it wants to know: less than until a node counts as lost.
constexpr seconds kForSignals = seconds(5);
constexpr seconds kForLaunch = minutes(5);
constexpr seconds kForAble = minutes(15);
constexpr seconds kForSets = hours(2);

/// The node of a coordinator that is silent for so long counts as lost; pings go on while a call is
/// open.
constexpr milliseconds kSilence = seconds(10);

}  // namespace

struct ControlClient::Parts {
  Parts(std::string address, Authenticator& the_authenticator)
      : coordinator(std::move(address)), authenticator(the_authenticator) {}

  using Stub = wire::Coordinator::Stub;
  template <typename Reply>
  using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const wire::Signed&, Reply*);

  /// One call on a connection of its own.
  template <typename Reply>
  Result<Reply> call(std::string_view name, Method<Reply> method,
                     const google::protobuf::Message& request, std::optional<seconds> within) {
    wire::Signed message;
    message.set_request(request.SerializeAsString());
    FERMATA_ASSIGN(*message.mutable_credential(), authenticator.make(name, message.request()));
    grpc::ClientContext context;
    if (within) context.set_deadline(std::chrono::system_clock::now() + *within);
    Stub stub(wire::open_channel(coordinator, kSilence));
    Reply reply;
    under_way(&context);
    const grpc::Status status = (stub.*method)(&context, message, &reply);
    under_way(nullptr);
    if (!status.ok()) return Failure(wire::status_of(status, coordinator));
    return reply;
  }

  void under_way(grpc::ClientContext* context) {
    const std::lock_guard lock(mutex);
    at_work = context;
    if (cancelled && at_work != nullptr) at_work->TryCancel();
  }

  void cancel() {
    const std::lock_guard lock(mutex);
    cancelled = true;
    if (at_work != nullptr) at_work->TryCancel();
  }

  const std::string coordinator;
  Authenticator& authenticator;
  std::mutex mutex;
  grpc::ClientContext* at_work = nullptr;
  bool cancelled = false;
};

ControlClient::ControlClient(std::string coordinator, Authenticator& authenticator)
    : parts_(std::make_unique<Parts>(std::move(coordinator), authenticator)) {}

ControlClient::~ControlClient() = default;

Result<wire::RunReply> ControlClient::run(const wire::RunRequest& request) {
  return parts_->call(wire::kRun, &Parts::Stub::Run, request, kForLaunch);
}

Result<wire::WaitReply> ControlClient::wait(const wire::JobRequest& request) {
  milliseconds pause(200);
  bool told = false;
  while (true) {
    auto reply = parts_->call(wire::kWait, &Parts::Stub::Wait, request, std::nullopt);
    if (reply || reply.error().code() != Code::kGone) return reply;
    if (!std::exchange(told, true)) {
      log_warning(
          fmt::format("{}; the job is waited for until it is back", reply.error().message()));
    }
    std::this_thread::sleep_for(pause);
    pause = std::min<milliseconds>(2 * pause, seconds(3));
  }
}

Status ControlClient::signal(const wire::SignalRequest& request) {
  const auto reply = parts_->call(wire::kSignal, &Parts::Stub::Signal, request, kForSignals);
  return reply ? wire::to_status(reply->outcome()) : reply.error();
}

Result<wire::CheckpointReply> ControlClient::checkpoint(const wire::CheckpointRequest& request) {
  return parts_->call(wire::kCheckpoint, &Parts::Stub::Checkpoint, request, kForSets);
}

Result<wire::AbleReply> ControlClient::able(const wire::JobRequest& request) {
  return parts_->call(wire::kAble, &Parts::Stub::Able, request, kForAble);
}

Result<wire::RunReply> ControlClient::restart(const wire::RestartRequest& request) {
  return parts_->call(wire::kRestart, &Parts::Stub::Restart, request, kForSets);
}

Result<wire::JobsReply> ControlClient::jobs() {
  return parts_->call(wire::kJobs, &Parts::Stub::Jobs, wire::Empty(), kForLists);
}

Result<wire::NodesReply> ControlClient::nodes() {
  return parts_->call(wire::kNodes, &Parts::Stub::Nodes, wire::Empty(), kForLists);
}

Result<wire::ControlReply> ControlClient::control(const wire::ControlRequest& request) {
  return parts_->call(wire::kControl, &Parts::Stub::Control, request, kForLists);
}

Result<wire::RequeueReply> ControlClient::requeue(const wire::RequeueRequest& request) {
  // A set, and a restart.
  return parts_->call(wire::kRequeue, &Parts::Stub::Requeue, request, 2 * kForSets);
}

Result<wire::NodesReply> ControlClient::drain(const wire::DrainRequest& request) {
  return parts_->call(wire::kDrain, &Parts::Stub::Drain, request, kForLists);
}

void ControlClient::cancel() { parts_->cancel(); }

}  // namespace fermata::cli
