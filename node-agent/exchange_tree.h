// The agent as a part of the trees by which pods gather: an agent takes contributions from agents
// below it on a port of its own (the same stream as to a coordinator, munge on both sides), and has
// such a stream to the agent above. The coordinator lays the trees out (wire::Route), one for each
// step of more than a handful of nodes; whatever has no route goes to the coordinator.
//
// A tree only saves messages. Where the agent above does not answer, contributions go to the
// coordinator after a moment, and through the tree again when it does; after every change what is
// under way is said once more.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "common/authenticator.h"
#include "common/status.h"
#include "node-agent/coordinator_link.h"
#include "proto/exchange.pb.h"

namespace fermata::node_agent {

struct TreeOptions {
  std::string listen = "0.0.0.0:6821";  ///< port 0: any that is free
  std::string node;                     ///< this one's name
  /// For streams to agents above; `coordinator` is the real one's.
  LinkOptions link;
  /// How long an agent above may be away before it is gone round.
  std::chrono::milliseconds patience{3'000};
  /// How long parts wait for others.
  std::chrono::milliseconds together{200};
  /// How long what agents below say of a step is kept for its route to come.
  std::chrono::milliseconds unrouted{600'000};
};

struct TreeEvents {
  /// To the coordinator, by the agent's own stream.
  std::function<void(wire::ExchangeUp)> to_coordinator;
  /// To a pod of this node.
  std::function<void(wire::ExchangeDown)> to_pod;
};

/// Thread-safe. The events are called on any thread, under no lock of this object; they must be
/// quick.
class ExchangeTree {
 public:
  /// `authenticator` is not owned and outlives this.
  ExchangeTree(TreeOptions options, Authenticator& authenticator, TreeEvents events);
  ExchangeTree(const ExchangeTree&) = delete;
  ExchangeTree& operator=(const ExchangeTree&) = delete;
  ~ExchangeTree();

  /// Begins. A failure to listen (kConflict) is told and leaves a tree that has no agents below.
  Status start();
  /// For Hello.relay: where agents below reach this one; empty where they cannot.
  std::string address() const;

  /// What a pod of this node says.
  void up(wire::ExchangeUp message);
  /// What the coordinator says.
  void down(wire::ExchangeDown message);
  /// The stream to the coordinator stands (again).
  void coordinator_back();
  /// Ends all streams; no event is called any more when it returns.
  void stop();

 private:
  class Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace fermata::node_agent
