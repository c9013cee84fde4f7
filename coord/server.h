// The coordinator's door: the gRPC server that agents, users and admins speak to. It checks who
// asks, keeps the agents' streams, and hands on what comes in. No thread of its own per agent.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "common/authenticator.h"
#include "common/status.h"
#include "coord/fleet.h"
#include "coord/requests.h"

namespace fermata::coord {

struct ServerOptions {
  std::string listen = "0.0.0.0:6820";  ///< port 0: any that is free
  std::string version = FERMATA_VERSION;
  Admins admins;
  /// An agent that says nothing for so long, not even to gRPC's pings, is lost.
  std::chrono::milliseconds silence{10'000};
  /// Who connects has so long to say hello.
  std::chrono::milliseconds hello_within{10'000};
  /// Streams that may be open without having been accepted; the agents of those that are refused
  /// for it come again.
  size_t strangers = 4096;
  /// Threads that wait for munged.
  unsigned checkers = 4;
};

/// Thread-safe, but for start() and stop(): once each, in this order.
class Server final : public Fleet {
 public:
  /// `authenticator` is not owned and outlives this.
  Server(ServerOptions options, Authenticator& authenticator);
  /// Stops.
  ~Server() override;

  /// Listens; kConflict where the port is taken. `listener` and `requests` are not owned and
  /// outlive stop().
  Status start(FleetListener& listener, Requests& requests);
  /// The same for streams of agents alone; whoever asks for something else is told so.
  Status start(FleetListener& listener);
  /// The port it listens on.
  int port() const;
  /// Ends all streams and open requests, and returns when no call into listener or requests is
  /// under way any more. Agents are not reported lost by this: they will be back. Answers still
  /// open get kGone, and so does what is sent from now on.
  void stop();

  /// All three between start() and the destructor. Orders to one agent arrive in the order of these
  /// calls. An Answer is called on one of the server's threads, never from within send(). From a
  /// FleetListener's agent_attached() on, orders for the new stream are kept until its Welcome is
  /// out.
  void send(const std::string& node, wire::Order order, Answer answer) override;
  void tell(const std::string& node, wire::ExchangeDown message) override;
  bool attached(const std::string& node) const override;

 private:
  struct Parts;
  Status start_parts(FleetListener& listener);
  std::unique_ptr<Parts> parts_;
};

}  // namespace fermata::coord
