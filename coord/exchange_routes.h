// How the contributions of a step's pods travel: straight to the coordinator from a handful of
// nodes, by a tree of agents from more. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/ids.h"
#include "proto/exchange.pb.h"

namespace fermata::coord {

/// A node of a step.
struct TreeNode {
  std::string node;
  std::string relay;           ///< Hello.relay; empty: no agent can be below it
  std::vector<uint32_t> pods;  ///< of the step, on this node; not empty
};

/// How many agents speak to one of them, or to the coordinator.
inline constexpr size_t kTreeArity = 8;

struct NodeRoute {
  std::string node;
  wire::ExchangeDown message;  ///< a Route
};

/// What to tell the agents, before the pods are started. Empty for no more than `arity` nodes: a
/// star needs no telling.
std::vector<NodeRoute> exchange_routes(JobStep step, uint32_t start,
                                       std::span<const TreeNode> nodes, size_t arity = kTreeArity);

}  // namespace fermata::coord
