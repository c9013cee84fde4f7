#include "coord/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <set>

namespace fermata::coord {
namespace {

/// The nodes by name, with what is taken from them on the way.
class Rooms {
 public:
  explicit Rooms(std::span<const NodeRoom> nodes) {
    for (const NodeRoom& node : nodes) rooms_[node.name] = node;
  }

  Result<NodeRoom*> named(const std::string& name) {
    const auto found = rooms_.find(name);
    if (found == rooms_.end()) {
      return failure(Code::kNotFound,
                     fmt::format("node {} is not known here (fermata nodes lists all)", name));
    }
    if (!found->second.up) {
      return failure(Code::kGone, fmt::format("node {} is lost: its agent does not answer", name));
    }
    return &found->second;
  }
  bool has_room(const std::string& name, uint32_t ranks) const {
    const auto found = rooms_.find(name);
    return found != rooms_.end() && found->second.up && found->second.free() >= ranks;
  }
  /// Those that are up, with most free slots first.
  std::vector<NodeRoom*> by_room() {
    std::vector<NodeRoom*> up;
    for (auto& [name, room] : rooms_) {
      if (room.up) up.push_back(&room);
    }
    std::stable_sort(up.begin(), up.end(),
                     [](const NodeRoom* a, const NodeRoom* b) { return a->free() > b->free(); });
    return up;
  }

 private:
  std::map<std::string, NodeRoom> rooms_;
};

Failure too_little(const NodeRoom& node, uint32_t needed) {
  if (node.drained) {
    return failure(Code::kBusy,
                   fmt::format("node {} is drained (fermata nodes tells why)", node.name));
  }
  return failure(Code::kBusy, fmt::format("node {} has {} of {} slots free, {} are needed",
                                          node.name, node.free(), node.slots, needed));
}

/// Even shares of `ranks`, none above what its node has free; the first get what is over.
std::optional<std::vector<uint32_t>> shares_of(const std::vector<NodeRoom*>& nodes,
                                               uint32_t ranks) {
  std::vector<uint32_t> shares(nodes.size(), 0);
  while (ranks > 0) {
    std::vector<size_t> open;
    for (size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i]->free() > shares[i]) open.push_back(i);
    }
    if (open.empty()) return std::nullopt;
    const uint32_t each = std::max<uint32_t>(1, ranks / static_cast<uint32_t>(open.size()));
    for (const size_t i : open) {
      const uint32_t given = std::min({each, nodes[i]->free() - shares[i], ranks});
      shares[i] += given;
      ranks -= given;
    }
  }
  return shares;
}

Result<std::vector<NodeRoom*>> chosen(Rooms& rooms, uint32_t ranks,
                                      const std::vector<std::string>& names, uint32_t count) {
  std::vector<NodeRoom*> nodes;
  if (!names.empty()) {
    std::set<std::string> seen;
    for (const std::string& name : names) {
      if (!seen.insert(name).second) {
        return failure(Code::kUsage, fmt::format("node {} is named twice", name));
      }
      FERMATA_ASSIGN(NodeRoom * room, rooms.named(name));
      if (room->drained) return too_little(*room, 1);
      nodes.push_back(room);
    }
    return nodes;
  }
  uint32_t room = 0;
  for (NodeRoom* node : rooms.by_room()) {
    if (node->free() == 0 || (count == 0 && room >= ranks) ||
        (count != 0 && nodes.size() == count)) {
      break;
    }
    nodes.push_back(node);
    room += node->free();
  }
  if (count != 0 && nodes.size() < count) {
    return failure(Code::kBusy, fmt::format("{} nodes are asked for, {} have free slots (fermata "
                                            "nodes lists all)",
                                            count, nodes.size()));
  }
  // As a user counts them.
  std::sort(nodes.begin(), nodes.end(),
            [](const NodeRoom* a, const NodeRoom* b) { return a->name < b->name; });
  return nodes;
}

/// Pod i of n on m nodes: blocks of pods, as even as can be.
size_t block_of(size_t pod, size_t pods, size_t nodes) { return pod * nodes / pods; }

Result<std::vector<std::string>> dealt(Rooms& rooms, std::span<const uint32_t> ranks,
                                       const std::vector<std::string>& names, bool evenly) {
  std::vector<std::string> where;
  size_t at = 0;
  for (size_t pod = 0; pod < ranks.size(); ++pod) {
    if (evenly) {
      at = names.size() >= ranks.size() ? pod : block_of(pod, ranks.size(), names.size());
    } else {
      while (at + 1 < names.size() && !rooms.has_room(names[at], ranks[pod])) ++at;
    }
    FERMATA_ASSIGN(NodeRoom * node, rooms.named(names[at]));
    if (node->free() < ranks[pod]) return too_little(*node, ranks[pod]);
    node->used += ranks[pod];
    where.push_back(node->name);
  }
  return where;
}

}  // namespace

Result<Placement> place_run(std::span<const NodeRoom> nodes, uint32_t ranks,
                            const std::vector<std::string>& names, uint32_t count) {
  const size_t wanted = names.empty() ? count : names.size();
  if (!names.empty() && count != 0 && count != names.size()) {
    return failure(Code::kUsage,
                   fmt::format("{} nodes are asked for, and {} are named", count, names.size()));
  }
  if (ranks == 0 || ranks < wanted) {
    return failure(Code::kUsage,
                   fmt::format("{} ranks are too few for {} nodes: each needs one", ranks, wanted));
  }
  Rooms rooms(nodes);
  FERMATA_ASSIGN(const std::vector<NodeRoom*> on, chosen(rooms, ranks, names, count));
  const auto shares = shares_of(on, ranks);
  if (!shares) {
    uint32_t room = 0;
    std::string each;
    for (const NodeRoom* node : on) {
      room += node->free();
      each += fmt::format("{}{} {} of {}", each.empty() ? "" : ", ", node->name, node->free(),
                          node->slots);
    }
    return failure(Code::kBusy, fmt::format("{} ranks need as many slots, {} are free{}", ranks,
                                            room, each.empty() ? "" : " (" + each + ")"));
  }
  Placement placement;
  for (size_t i = 0; i < on.size(); ++i) {
    if ((*shares)[i] == 0) {
      return failure(Code::kBusy, fmt::format("node {} has no slot free", on[i]->name));
    }
    const auto pod = static_cast<uint32_t>(placement.nodes.size());
    placement.nodes.push_back(on[i]->name);
    placement.pod_of_rank.insert(placement.pod_of_rank.end(), (*shares)[i], pod);
  }
  return placement;
}

Result<std::vector<std::string>> place_restart(std::span<const NodeRoom> nodes,
                                               std::span<const uint32_t> ranks,
                                               const std::vector<std::string>& names,
                                               std::span<const std::string> before) {
  if (!names.empty()) {
    Rooms rooms(nodes);
    Result<std::vector<std::string>> even = dealt(rooms, ranks, names, true);
    if (even || even.error().code() != Code::kBusy || names.size() >= ranks.size()) return even;
    Rooms anew(nodes);
    return dealt(anew, ranks, names, false);
  }
  Rooms rooms(nodes);
  std::vector<std::string> where(ranks.size());
  // Those that can stay come first, so that nobody takes their place.
  for (size_t pod = 0; pod < ranks.size() && pod < before.size(); ++pod) {
    if (!rooms.has_room(before[pod], ranks[pod])) continue;
    FERMATA_ASSIGN(NodeRoom * node, rooms.named(before[pod]));
    node->used += ranks[pod];
    where[pod] = node->name;
  }
  for (size_t pod = 0; pod < ranks.size(); ++pod) {
    if (!where[pod].empty()) continue;
    const std::vector<NodeRoom*> up = rooms.by_room();
    if (up.empty()) return failure(Code::kGone, "no node is up (fermata nodes lists all)");
    if (up.front()->free() < ranks[pod]) return too_little(*up.front(), ranks[pod]);
    up.front()->used += ranks[pod];
    where[pod] = up.front()->name;
  }
  return where;
}

}  // namespace fermata::coord
