// The streams of the agents, by node: who may attach, and who is there. Behind Server; needs gRPC's
// headers.
#pragma once

#include <grpcpp/server_context.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>

#include "common/worker_pool.h"
#include "coord/agent_stream.h"
#include "coord/server.h"

namespace fermata::coord {

/// Thread-safe. Locks are taken in this order: attaching_, a stream's events, the listener's own,
/// names_, a stream's queue.
class AgentStreams final : public StreamKeeper {
 public:
  /// None is owned; all outlive the streams.
  AgentStreams(const ServerOptions& options, Authenticator& authenticator, FleetListener& listener,
               WorkerPool& checkers);

  /// A new stream, from its first byte on.
  grpc::ServerBidiReactor<wire::FromAgent, wire::ToAgent>* open(
      grpc::CallbackServerContext& context);
  /// Ends the streams there are and those to come, without a word to the listener.
  void close();

  void send(const std::string& node, wire::Order order, Fleet::Answer answer);
  void tell(const std::string& node, wire::ExchangeDown message);
  bool attached(const std::string& node) const;

  void said_hello(const std::shared_ptr<AgentStream>& stream, wire::Signed hello) override;
  void ended(AgentStream& stream) override;

 private:
  /// What a hello says, if it is of an agent that may attach.
  Result<wire::Hello> read_hello(const wire::Signed& hello);
  Result<wire::Signed> attach(const std::shared_ptr<AgentStream>& stream, const wire::Hello& hello);
  void log_refused(const AgentStream& stream, const Status& why);
  std::shared_ptr<AgentStream> find(const std::string& node) const;

  const ServerOptions& options_;
  Authenticator& authenticator_;
  FleetListener& listener_;
  WorkerPool& checkers_;

  /// One stream attaches at a time, so that the listener hears of the streams of a node one after
  /// the other.
  std::mutex attaching_;
  mutable std::shared_mutex names_;
  std::unordered_map<std::string, std::shared_ptr<AgentStream>> by_node_;
  std::unordered_map<AgentStream*, std::shared_ptr<AgentStream>> all_;
  bool closed_ = false;
  std::mutex refusals_mutex_;
  /// When an agent was refused last, by the sentence: it comes again every few seconds.
  std::unordered_map<std::string, std::chrono::steady_clock::time_point> refusals_;
  /// For answers that must not come from within send().
  WorkerPool later_{1};
};

}  // namespace fermata::coord
