// What users and admins ask of the coordinator. The server has checked the credential and, by the
// table in permissions.h, whether such a caller may call the method at all; whose job it is, is
// checked here.
#pragma once

#include <sys/types.h>

#include <functional>

#include "proto/control.pb.h"

namespace fermata::coord {

/// Who asks, as munge says.
struct Caller {
  uid_t uid = 0;
  gid_t gid = 0;
  bool admin = false;  ///< root or SlurmUser
};

/// Each request is answered once, on any thread, at once or later. Called on the server's threads:
/// none may block.
class Requests {
 public:
  template <typename Reply>
  using Respond = std::function<void(Reply)>;

  Requests() = default;
  Requests(const Requests&) = delete;
  Requests& operator=(const Requests&) = delete;
  virtual ~Requests() = default;

  virtual void run(const Caller&, const wire::RunRequest&, Respond<wire::RunReply>) = 0;
  virtual void wait(const Caller&, const wire::JobRequest&, Respond<wire::WaitReply>) = 0;
  virtual void signal(const Caller&, const wire::SignalRequest&, Respond<wire::SignalReply>) = 0;
  virtual void checkpoint(const Caller&, const wire::CheckpointRequest&,
                          Respond<wire::CheckpointReply>) = 0;
  virtual void able(const Caller&, const wire::JobRequest&, Respond<wire::AbleReply>) = 0;
  virtual void restart(const Caller&, const wire::RestartRequest&, Respond<wire::RunReply>) = 0;
  virtual void jobs(const Caller&, Respond<wire::JobsReply>) = 0;
  virtual void nodes(const Caller&, Respond<wire::NodesReply>) = 0;
  virtual void control(const Caller&, const wire::ControlRequest&, Respond<wire::ControlReply>) = 0;
  virtual void requeue(const Caller&, const wire::RequeueRequest&, Respond<wire::RequeueReply>) = 0;
  virtual void drain(const Caller&, const wire::DrainRequest&, Respond<wire::NodesReply>) = 0;
};

}  // namespace fermata::coord
