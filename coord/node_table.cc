#include "coord/node_table.h"

#include <ctime>

namespace fermata::coord {
namespace {

std::vector<uint32_t> ranks_of_pods(const Placement& placement) {
  std::vector<uint32_t> ranks(placement.nodes.size(), 0);
  for (const uint32_t pod : placement.pod_of_rank) ++ranks[pod];
  return ranks;
}

/// Without its port.
std::string display_host(const wire::Interface& interface) {
  std::string text = display_address(interface.address());
  text.resize(std::min(text.size(), text.rfind(':')));
  if (text.starts_with('[') && text.ends_with(']')) text = text.substr(1, text.size() - 2);
  return text;
}

}  // namespace

void NodeTable::attached(const wire::Hello& hello) {
  const std::lock_guard lock(mutex_);
  Node& node = nodes_[hello.node()];
  node.hello = hello;
  node.up = true;
  node.since = std::time(nullptr);
}

void NodeTable::lost(const std::string& node) {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  if (found == nodes_.end() || !found->second.up) return;
  found->second.up = false;
  found->second.since = std::time(nullptr);
}

std::vector<NodeRoom> NodeTable::rooms(std::optional<JobStep> without) const {
  std::vector<NodeRoom> rooms;
  for (const auto& [name, node] : nodes_) {
    uint32_t used = 0;
    for (const auto& [job, ranks] : node.used) used += job == without ? 0 : ranks;
    rooms.push_back({name, node.hello.slots(), used, node.up, node.drained.has_value()});
  }
  return rooms;
}

void NodeTable::take(JobStep job, std::span<const std::string> nodes,
                     std::span<const uint32_t> ranks) {
  for (size_t i = 0; i < nodes.size() && i < ranks.size(); ++i) {
    nodes_[nodes[i]].used[job] += ranks[i];
  }
}

Result<Placement> NodeTable::reserve_run(JobStep job, uint32_t ranks,
                                         const std::vector<std::string>& names, uint32_t count) {
  const std::lock_guard lock(mutex_);
  FERMATA_ASSIGN(Placement placement, place_run(rooms(), ranks, names, count));
  take(job, placement.nodes, ranks_of_pods(placement));
  return placement;
}

Result<std::vector<std::string>> NodeTable::reserve_restart(JobStep job,
                                                            std::span<const uint32_t> ranks,
                                                            const std::vector<std::string>& names,
                                                            std::span<const std::string> before) {
  const std::lock_guard lock(mutex_);
  FERMATA_ASSIGN(std::vector<std::string> nodes, place_restart(rooms(), ranks, names, before));
  take(job, nodes, ranks);
  return nodes;
}

Status NodeTable::room_elsewhere(JobStep job, std::span<const uint32_t> ranks,
                                 const std::vector<std::string>& names,
                                 std::span<const std::string> before) const {
  const std::lock_guard lock(mutex_);
  const auto nodes = place_restart(rooms(job), ranks, names, before);
  return nodes ? Status::ok() : nodes.error();
}

void NodeTable::set_drained(const DrainedNode& node) {
  const std::lock_guard lock(mutex_);
  nodes_[node.name].drained = node;
}

void NodeTable::undrain(const std::string& node) {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  if (found != nodes_.end()) found->second.drained.reset();
}

bool NodeTable::known(const std::string& node) const {
  const std::lock_guard lock(mutex_);
  return nodes_.count(node) != 0;
}

void NodeTable::adopt(JobStep job, std::span<const std::string> nodes,
                      std::span<const uint32_t> ranks) {
  const std::lock_guard lock(mutex_);
  take(job, nodes, ranks);
  for (const std::string& name : nodes) nodes_[name].since = std::time(nullptr);
}

void NodeTable::release(JobStep job) {
  const std::lock_guard lock(mutex_);
  for (auto& [name, node] : nodes_) node.used.erase(job);
}

Addresses NodeTable::addresses_of(std::span<const std::string> nodes) const {
  const std::lock_guard lock(mutex_);
  Addresses addresses;
  for (const std::string& name : nodes) {
    const auto found = nodes_.find(name);
    if (found == nodes_.end()) continue;
    for (const wire::Interface& interface : found->second.hello.interfaces()) {
      addresses.insert(ip_of(interface.address()));
    }
  }
  return addresses;
}

std::string NodeTable::relay_of(const std::string& node) const {
  const std::lock_guard lock(mutex_);
  const auto found = nodes_.find(node);
  return found == nodes_.end() || !found->second.up ? std::string() : found->second.hello.relay();
}

std::vector<wire::NodeInfo> NodeTable::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<wire::NodeInfo> list;
  for (const auto& [name, node] : nodes_) {
    wire::NodeInfo info;
    info.set_node(name);
    info.set_state(node.up ? "up" : "lost");
    info.set_slots(node.hello.slots());
    uint32_t used = 0;
    for (const auto& [job, ranks] : node.used) {
      used += ranks;
      info.add_jobs(to_string(job));
    }
    info.set_used(used);
    info.set_version(node.hello.version());
    info.set_kernel(node.hello.machine().kernel_release());
    info.set_since(node.since);
    if (node.drained) {
      info.set_drain_reason(node.drained->reason);
      info.set_drained(node.drained->since);
      info.set_drained_by(node.drained->by);
    }
    for (const wire::Interface& interface : node.hello.interfaces()) {
      info.add_addresses(display_host(interface));
    }
    list.push_back(std::move(info));
  }
  return list;
}

}  // namespace fermata::coord
