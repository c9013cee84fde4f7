#include "coord/exchange_routes.h"

#include <algorithm>
#include <set>

namespace fermata::coord {
namespace {

constexpr size_t kCoordinator = SIZE_MAX;

/// The first `arity` nodes are below the coordinator, the next `arity` below the first of them ...
size_t parent_of(size_t index, std::span<const TreeNode> nodes, size_t arity) {
  if (index < arity) return kCoordinator;
  const size_t parent = index / arity - 1;
  return nodes[parent].relay.empty() ? kCoordinator : parent;
}

}  // namespace

std::vector<NodeRoute> exchange_routes(JobStep step, uint32_t start,
                                       std::span<const TreeNode> nodes, size_t arity) {
  if (nodes.size() <= arity) return {};
  // Parents come before their children.
  std::vector<std::set<uint32_t>> below(nodes.size());
  for (size_t i = nodes.size(); i-- > 0;) {
    below[i].insert(nodes[i].pods.begin(), nodes[i].pods.end());
    const size_t parent = parent_of(i, nodes, arity);
    if (parent != kCoordinator) below[parent].insert(below[i].begin(), below[i].end());
  }
  std::vector<NodeRoute> routes;
  for (size_t i = 0; i < nodes.size(); ++i) {
    NodeRoute& route = routes.emplace_back();
    route.node = nodes[i].node;
    wire::PodId* id = route.message.mutable_pod();
    id->set_job(step.job);
    id->set_step(step.step);
    id->set_pod(*std::min_element(nodes[i].pods.begin(), nodes[i].pods.end()));
    id->set_start(start);
    const size_t parent = parent_of(i, nodes, arity);
    wire::Route* words = route.message.mutable_route();
    if (parent != kCoordinator) words->set_parent(nodes[parent].relay);
    words->mutable_below()->Assign(below[i].begin(), below[i].end());
  }
  return routes;
}

}  // namespace fermata::coord
