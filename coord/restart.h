// Brings the pods of a set back on their nodes: every pod is rebuilt, stopped and isolated; all
// addresses are put together; connections are made; all run. Two barriers. What is left of a
// restart that fails is the caller's to destroy() (launch.h). Any thread.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "coord/coordinator.h"
#include "coord/fleet.h"
#include "proto/store.pb.h"

namespace fermata::coord {

/// How long each step of it may take.
struct RestartDeadlines {
  Duration restore = std::chrono::hours(1);  ///< images are read
  Duration connect = std::chrono::minutes(2);
  Duration go = std::chrono::minutes(1);
};

/// The record of a restart from this set: whose job, its shape, its folder. `known`: what the
/// coordinator's store has of the job, or nothing. Pods have no node yet. kDamaged: the manifest is
/// no whole step.
Result<stored::Job> record_of(const storage::Manifest& manifest, const stored::Job* known);

/// Old to new addresses of all pods in one table, but for those that mean something else on each
/// node. Where two pods say different things of a whole host, or of a UDP port that they shared,
/// the first is heard; kConflict: of a TCP port.
Result<image::AddressMap> join_addresses(const std::vector<image::AddressMap>& maps);

/// For the agents, as in wire::RestartRequest.
struct RestartHow {
  std::string numa;
  bool lazy = false;
};

/// What is not as it was, a sentence each; or why not, naming node and reason.
Result<std::vector<std::string>> restart(Fleet& fleet, const stored::Job& record,
                                         const ChosenSet& set, const RestartHow& how,
                                         const RestartDeadlines& deadlines,
                                         const std::stop_token& give_up);

}  // namespace fermata::coord
