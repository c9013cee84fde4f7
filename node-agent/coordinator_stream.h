// One stream to the coordinator: messages in and out, as gRPC's callback API has it.
// CoordinatorLink keeps one; the scale bench very many. Needs gRPC's headers.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "proto/control.grpc.pb.h"

namespace fermata::node_agent {

/// Thread-safe. Once begun it has to live until `ended` was called, and is destroyed on another
/// thread than gRPC's: with the process's last channel go gRPC's threads, and none of them can wait
/// for itself.
class CoordinatorStream final : public grpc::ClientBidiReactor<wire::FromAgent, wire::ToAgent> {
 public:
  /// Called on gRPC's threads, one at a time; none may block.
  struct Events {
    std::function<void(wire::ToAgent)> message;
    /// The last one, and the last that is heard of the stream.
    std::function<void(const grpc::Status&)> ended;
  };

  CoordinatorStream(const std::shared_ptr<grpc::Channel>& channel, Events events);

  /// Opens the stream, with a first message at once if there is one.
  void begin(std::optional<wire::FromAgent> hello);
  /// Queues a message behind those before; dropped when the stream has ended.
  void send(wire::FromAgent message);
  /// Ends it soon, whatever it is at.
  void cancel();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void write_next();

  const std::unique_ptr<wire::Coordinator::Stub> stub_;
  grpc::ClientContext context_;
  Events events_;
  wire::ToAgent incoming_;  ///< gRPC's until OnReadDone()

  std::mutex mutex_;
  bool writing_ = false;
  bool broken_ = false;  ///< no write will do any more
  std::deque<wire::FromAgent> queue_;
  wire::FromAgent outgoing_;  ///< gRPC's until OnWriteDone()
};

}  // namespace fermata::node_agent
