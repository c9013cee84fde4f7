// What a command asks of the coordinator: signed requests, one answer each. One thread at a time,
// but for cancel().
#pragma once

#include <memory>
#include <string>

#include "common/authenticator.h"
#include "common/status.h"
#include "proto/control.pb.h"

namespace fermata::cli {

/// Calls fail with kGone, in a sentence that says where it was looked for, when no coordinator
/// answers; with kTimeout when it takes longer than such a call may (seconds for lists, hours for
/// sets); with kPermission when the request is refused. An answer's own `outcome` is for the caller
/// to read (proto/outcome.h).
class ControlClient {
 public:
  /// `coordinator`: "host:port". `authenticator` is not owned and outlives this.
  ControlClient(std::string coordinator, Authenticator& authenticator);
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;
  ~ControlClient();

  Result<wire::RunReply> run(const wire::RunRequest& request);
  /// Waits for as long as the job runs, and asks again, for ever, when the coordinator is restarted
  /// meanwhile.
  Result<wire::WaitReply> wait(const wire::JobRequest& request);
  Status signal(const wire::SignalRequest& request);
  Result<wire::CheckpointReply> checkpoint(const wire::CheckpointRequest& request);
  Result<wire::AbleReply> able(const wire::JobRequest& request);
  Result<wire::RunReply> restart(const wire::RestartRequest& request);
  Result<wire::JobsReply> jobs();
  Result<wire::NodesReply> nodes();
  Result<wire::ControlReply> control(const wire::ControlRequest& request);
  Result<wire::RequeueReply> requeue(const wire::RequeueRequest& request);
  Result<wire::NodesReply> drain(const wire::DrainRequest& request);

  /// Any thread: the call under way, and each one after it, fails at once.
  void cancel();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace fermata::cli
