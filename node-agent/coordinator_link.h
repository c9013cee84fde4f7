// The agent's side of the stream to the coordinator: one at a time, made anew for ever whenever it
// is lost, by agents that go on with their work meanwhile.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "common/authenticator.h"
#include "common/status.h"
#include "proto/control.pb.h"

namespace fermata::node_agent {

struct LinkOptions {
  std::string coordinator;  ///< "host:port"
  /// What it is, for sentences: an agent above this one in a tree is spoken to alike.
  std::string peer = "the coordinator";
  std::string version = FERMATA_VERSION;
  Admins admins;  ///< whose Welcome counts
  /// A coordinator that says nothing for so long, not even to gRPC's pings, is lost.
  std::chrono::milliseconds silence{10'000};
  /// From the attempt to connect to the Welcome.
  std::chrono::milliseconds welcome_within{15'000};
  /// Between two attempts: doubled from the first to the second, less a random part of up to half.
  std::chrono::milliseconds first_pause{100};
  std::chrono::milliseconds longest_pause{3'000};
};

/// All are called on the link's own thread, one at a time: none may block for long.
struct LinkEvents {
  /// What this node is and has now; asked for each new stream. Version and nonce are filled in.
  std::function<wire::Hello()> hello;
  /// The stream stands; before its first order.
  std::function<void(const wire::Welcome&)> attached;
  /// An order; answered by send() of a Done with its id, from any thread, at once or later.
  std::function<void(wire::Order)> order;
  std::function<void(wire::ExchangeDown)> exchange;
  /// The stream that stood is lost. Orders still open need no answer any more.
  std::function<void(const Status&)> lost;
};

class CoordinatorLink {
 public:
  /// `authenticator` is not owned and outlives this. Its calls are made on the link's thread.
  CoordinatorLink(LinkOptions options, Authenticator& authenticator, LinkEvents events);
  CoordinatorLink(const CoordinatorLink&) = delete;
  CoordinatorLink& operator=(const CoordinatorLink&) = delete;
  /// Stops.
  ~CoordinatorLink();

  /// Begins to connect, and to call the events.
  void start();
  /// Sends on the stream there is; from any thread, never blocks. False, and nothing is sent, where
  /// none stands, and for a Done to an order of an earlier stream (ids of orders are unique for the
  /// life of the link). True is no promise that it arrives: what has to is told again by the next
  /// Hello.
  bool send(wire::FromAgent message);
  bool attached() const;
  /// Ends the stream; no event is called any more when it returns. Not to be called from an event.
  void stop();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace fermata::node_agent
