// map_by_shape(): two trees of one shape, laid on each other.
#include <algorithm>
#include <cstdlib>

#include "numa/group_tree.h"
#include "numa/mapping.h"

namespace fermata::numa {
namespace {

/// A group of the old tree, the one in its place, and the same of their children.
struct Match {
  const Group* before = nullptr;
  const Group* now = nullptr;
  std::vector<Match> children;
};

Match match(const Group& before, const Group& now) {  // NOLINT(misc-no-recursion): five levels
  Match result{&before, &now, {}};
  const size_t count = before.children.size();
  std::vector<const Group*> partner(count);
  std::vector<bool> taken(count);
  const auto pair_up = [&](const auto& fits) {
    for (size_t i = 0; i < count; ++i) {
      for (size_t j = 0; j < count && partner[i] == nullptr; ++j) {
        const Group& mine = before.children[i];
        const Group& other = now.children[j];
        if (taken[j] || mine.shape != other.shape || !fits(mine, other)) continue;
        partner[i] = &other;
        taken[j] = true;
      }
    }
  };
  pair_up([](const Group& mine, const Group& other) {
    return mine.cpus == other.cpus && mine.node == other.node;
  });
  pair_up([](const Group& mine, const Group& other) {
    return mine.level == Level::kNode ? mine.node == other.node : mine.cpus == other.cpus;
  });
  pair_up([](const Group&, const Group&) { return true; });
  for (size_t i = 0; i < count; ++i) {
    result.children.push_back(match(before.children[i], *partner[i]));
  }
  return result;
}

using NodePairs = std::vector<std::pair<int, int>>;

void collect_nodes(const Match& top, NodePairs& pairs) {  // NOLINT(misc-no-recursion)
  if (top.before->level == Level::kNode) {
    if (top.before->node >= 0) pairs.emplace_back(top.before->node, top.now->node);
    return;
  }
  for (const Match& child : top.children) collect_nodes(child, pairs);
}

class Distances {
 public:
  Distances(const Machine& before, const Machine& now) : before_(before), now_(now) {}

  /// How much farther or nearer nodes lie from each other than they did.
  uint64_t change(const Match& top) const {
    NodePairs pairs;
    collect_nodes(top, pairs);
    uint64_t sum = 0;
    for (const auto& [from, from_now] : pairs) {
      for (const auto& [to, to_now] : pairs) {
        const int64_t was = before_.distance(from, to);
        const int64_t is = now_.distance(from_now, to_now);
        sum += static_cast<uint64_t>(std::abs(was - is));
      }
    }
    return sum;
  }

 private:
  const Machine& before_;
  const Machine& now_;
};

/// Exchanges the places of two like children.
void exchange(Match& left, Match& right) {
  const Group* place = left.now;
  left = match(*left.before, *right.now);
  right = match(*right.before, *place);
}

/// One round of swaps at and below `group`; whether any was kept.
bool improve(Match& group, const Match& top,
             const Distances& distances,  // NOLINT(misc-no-recursion)
             uint64_t& cost) {
  if (group.before->level >= Level::kNode) return false;
  bool better = false;
  for (size_t i = 0; i < group.children.size(); ++i) {
    for (size_t j = i + 1; j < group.children.size(); ++j) {
      if (cost == 0) return better;
      Match& left = group.children[i];
      Match& right = group.children[j];
      if (left.before->shape != right.before->shape) continue;
      Match kept_left = left;
      Match kept_right = right;
      exchange(left, right);
      const uint64_t tried = distances.change(top);
      if (tried < cost) {
        cost = tried;
        better = true;
      } else {
        left = std::move(kept_left);
        right = std::move(kept_right);
      }
    }
  }
  for (Match& child : group.children) better |= improve(child, top, distances, cost);
  return better;
}

void write_down(const Match& match, Mapping& mapping) {  // NOLINT(misc-no-recursion)
  if (match.before->level == Level::kNode && match.before->node >= 0) {
    mapping.node[match.before->node] = {match.now->node};
  }
  if (match.before->level == Level::kCpu) {
    mapping.cpu[match.before->cpus.front()] = match.now->cpus.front();
  }
  for (const Match& child : match.children) write_down(child, mapping);
}

}  // namespace

bool map_by_shape(const Machine& before, const Machine& now, Mapping& mapping) {
  const Group tree_before = tree_of(before);
  const Group tree_now = tree_of(now);
  if (tree_before.shape != tree_now.shape) return false;
  Match top = match(tree_before, tree_now);
  const Distances distances(before, now);
  uint64_t cost = distances.change(top);
  // Each swap that is kept lowers the cost, so this ends; the bound is for hostile distances.
  for (int round = 0; round < 16 && improve(top, top, distances, cost); ++round) {
  }
  mapping = {};
  mapping.kind = Mapping::Kind::kIsomorphic;
  write_down(top, mapping);
  return true;
}

}  // namespace fermata::numa
