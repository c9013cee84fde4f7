// What the podinits of a job exchange: the board, and the ways to it.
#include <fmt/format.h>

#include <algorithm>

#include "coord/job.h"

namespace fermata::coord {

void Job::tell(std::vector<wire::ExchangeDown> messages) {
  for (wire::ExchangeDown& message : messages) {
    const uint32_t pod = message.pod().pod();
    if (pod < node_of_.size()) context_.fleet.tell(node_of_[pod], std::move(message));
  }
}

void Job::exchange(const wire::ExchangeUp& message) {
  if (message.pod().start() != start_ || message.pod().pod() >= node_of_.size()) return;
  {
    const std::lock_guard lock(mutex_);
    exchanged_ = true;
    if (message.has_abort()) {
      end_because(fmt::format("pod {} on {}: {}", message.pod().pod(),
                              node_of_[message.pod().pod()], message.abort().reason()),
                  message.abort().status() & 0xff);
    }
  }
  const std::lock_guard board(board_mutex_);
  tell(board_.take(message));
}

// ---- the ways

void Job::tell_routes() {
  const std::lock_guard board(board_mutex_);
  lay_routes();
}

void Job::lay_routes() {
  if (pods_on_.size() <= context_.options.tree_arity) return;
  std::vector<TreeNode> nodes;
  for (uint32_t pod = 0; pod < node_of_.size(); ++pod) {
    const std::string& node = node_of_[pod];
    const std::vector<uint32_t>& pods = pods_on_.at(node);
    if (pods.front() == pod) nodes.push_back({node, context_.nodes.relay_of(node), pods});
  }
  routes_.clear();
  for (const TreeNode& node : nodes) routes_[node.node].relay = node.relay;
  for (NodeRoute& route : exchange_routes(step_, start_, nodes, context_.options.tree_arity)) {
    context_.fleet.tell(route.node, route.message);
    routes_[route.node].message = std::move(route.message);
  }
}

void Job::tell_route(const std::string& node, bool all_here) {
  const auto laid = routes_.find(node);
  if (laid != routes_.end() && laid->second.relay == context_.nodes.relay_of(node)) {
    context_.fleet.tell(node, laid->second.message);
  } else if (all_here) {
    // Of a job that was adopted, whose agents have the routes of its time before; or an agent that
    // is reached elsewhere now.
    lay_routes();
  }
}

void Job::forget_routes() {
  for (auto& [node, laid] : routes_) {
    laid.message.mutable_route()->Clear();
    context_.fleet.tell(node, laid.message);
  }
  routes_.clear();
}

}  // namespace fermata::coord
