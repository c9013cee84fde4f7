// The agents that are attached, as the rest of the coordinator sees them: orders go out, answers
// and events come back. The gRPC server implements it; tests have their own.
#pragma once

#include <functional>
#include <string>

#include "common/status.h"
#include "proto/control.pb.h"

namespace fermata::coord {

/// Thread-safe.
class Fleet {
 public:
  /// Called once, on any thread: what the agent answered, or kGone when its stream was lost first
  /// (or was not there). It must be quick and must not call the Fleet.
  using Answer = std::function<void(Result<wire::Done>)>;

  Fleet() = default;
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;
  virtual ~Fleet() = default;

  /// Sends an order to the agent of `node`; its id is filled in.
  virtual void send(const std::string& node, wire::Order order, Answer answer) = 0;
  /// Sends without an answer; dropped when the agent is not attached.
  virtual void tell(const std::string& node, wire::ExchangeDown message) = 0;
  virtual bool attached(const std::string& node) const = 0;
};

/// What happens at the agents. Called on the server's threads, for one node in the order in which
/// it happened.
class FleetListener {
 public:
  FleetListener() = default;
  FleetListener(const FleetListener&) = delete;
  FleetListener& operator=(const FleetListener&) = delete;
  virtual ~FleetListener() = default;

  /// A new stream. Version and credential were checked. A failure refuses it.
  virtual Result<wire::Welcome> agent_attached(const wire::Hello& hello) = 0;
  virtual void agent_lost(const std::string& node) = 0;
  virtual void pod_ended(const std::string& node, const wire::PodEnded& ended) = 0;
  virtual void exchange(const std::string& node, const wire::ExchangeUp& message) = 0;
  /// The tasks of a Slurm step wait on this node. May come again.
  virtual void step_offered(const std::string& /*node*/, const wire::StepOffer& /*offer*/) {}
  /// A pod's SIGTERM of Slurm's waits there for a PassTermOrder.
  virtual void term_held(const std::string& /*node*/, const wire::TermHeld& /*held*/) {}
};

}  // namespace fermata::coord
