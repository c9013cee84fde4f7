// The agent's end of the exchange between podinits, for one pod: what podinit leaves in its outbox
// is handed to a callback, what comes for it is put into its inbox and podinit woken. The folders
// lie in the pod's own /dev/shm and are the user's: everything in them is untrusted, and is touched
// with the owner's rights by a thread of this object, one for each pod, so that whatever a user
// makes of the folders holds up nobody else.
//
// When to call what (all functions: any thread):
//   start()    the pod runs (launched, adopted, rebuilt).
//   resend()   whoever delivers knows this object, and at every new stream to the coordinator.
//   Nothing
//              is handed up before the first call: an answer must find its way back.
//   hold()     at ISOLATE, before that phase is answered; release() at JOIN and at every roll-back.
//              Between them nothing reaches the pod: a pod that was captured must not have heard
//              what another one said after its own capture.
//   destroy    once the pod has ended, before its end is reported: the outbox is read a last time,
//              so that an abort is told before the end that it brings.
// Messages for a pod are kept while it cannot take them (held, /dev/shm full) and are lost with
// this object; whoever waits for them asks again.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>

#include "common/credentials.h"
#include "common/ids.h"
#include "common/status.h"
#include "proto/exchange.pb.h"

namespace fermata::node_agent {

class ExchangeFolder {
 public:
  /// Takes a message of podinit's, `pod` filled in. On the folder's thread; must not call this
  /// object. May come again with the same contents.
  using Sender = std::function<void(wire::ExchangeUp)>;

  /// `init`: the host PID of the pod's PID 1, which is not reaped before this returns. The folders
  /// may come to be later. kGone: the pod has ended, and has nothing to say any more.
  static Result<std::unique_ptr<ExchangeFolder>> start(pid_t init, const PodId& pod,
                                                       const Credentials& owner, Sender sender);

  ExchangeFolder(const ExchangeFolder&) = delete;
  ExchangeFolder& operator=(const ExchangeFolder&) = delete;
  ~ExchangeFolder();

  /// For the pod. Dropped with a word in the log when it is for another pod or start, or too big.
  void deliver(wire::ExchangeDown message);
  /// Hands everything in the outbox up (again), and from now on what comes.
  void resend();

  /// From its return to release() nothing is written to the pod's folders. kTimeout: the folder's
  /// thread does not come back from the file system; nothing is held then.
  Status hold(std::chrono::milliseconds patience);
  /// Fine without a hold.
  void release();

 private:
  class Worker;
  explicit ExchangeFolder(std::unique_ptr<Worker> worker);
  std::unique_ptr<Worker> worker_;
};

}  // namespace fermata::node_agent
