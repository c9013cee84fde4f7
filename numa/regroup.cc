// map_by_groups(): what lay together, laid into a machine of another shape. From packages down to
// CPUs, what a group of the new machine is given is shared out among its parts in order, so that
// neighbours stay neighbours; what fits into no part whole is taken apart first.
#include <algorithm>
#include <numeric>

#include "numa/group_tree.h"
#include "numa/mapping.h"

namespace fermata::numa {
namespace {

/// What CPUs are counted in: whole cores where there are enough, so that siblings are not shared
/// that were not; else CPUs; where these are too few, each is taken for several.
struct Unit {
  bool cores = true;
  uint64_t cpus_per_core = 1;  // with cores: the fewest that a core here has
  uint64_t times = 1;

  uint64_t demand(const Group& group) const {
    uint64_t sum = 0;
    for (const Group* core : groups_at(group, Level::kCore)) {
      const uint64_t used = core->cpus.size();
      sum += cores ? (used + cpus_per_core - 1) / cpus_per_core : used;
    }
    if (group.level == Level::kCpu) return 1;
    return sum;
  }

  uint64_t room(const Group& group) const {
    return cores ? groups_at(group, Level::kCore).size() : group.cpus.size() * times;
  }
};

/// A part of the old tree, with what the job uses of it alone.
struct Item {
  Group group;
  uint64_t demand = 0;
  uint64_t bytes = 0;
};

struct Bin {
  const Group* group = nullptr;
  uint64_t room = 0;    // CPUs, in units
  uint64_t memory = 0;  // 0: not known
  uint64_t used_room = 0;
  uint64_t used_memory = 0;
  std::vector<Item> items;

  bool fits(const Item& item) const {
    return used_room + item.demand <= room &&
           (memory == 0 || item.bytes == 0 || used_memory + item.bytes <= memory);
  }
  void add(Item item) {
    used_room += item.demand;
    used_memory += item.bytes;
    items.push_back(std::move(item));
  }
};

/// Only what is used: CPUs that threads are bound to, nodes with bytes.
bool prune(Group& group, const Usage& usage) {  // NOLINT(misc-no-recursion): five levels
  group.cpus = intersection(group.cpus, usage.cpus);
  std::erase_if(group.children, [&](Group& child) { return !prune(child, usage); });
  if (group.level == Level::kMachine) return true;
  if (!group.cpus.empty() || (group.level < Level::kNode && !group.children.empty())) return true;
  const auto bytes = usage.bytes.find(group.node);
  return group.level == Level::kNode && bytes != usage.bytes.end() && bytes->second > 0;
}

class Regrouping {
 public:
  Regrouping(const Machine& before, const Usage& usage, const Machine& now, Mapping& mapping)
      : usage_(usage),
        now_(now),
        mapping_(mapping),
        old_tree_(tree_of(before)),
        tree_(tree_of(now)) {
    uint64_t wanted = 0;
    uint64_t here = 0;
    for (const auto& [node, bytes] : usage.bytes) wanted += bytes;
    for (const NumaNode& node : now.nodes) here += node.bytes;
    // Where there is too little in any case, sizes are no guide.
    for (const NumaNode& node : now.nodes)
      memory_of_[node.number] = wanted <= here ? node.bytes : 0;
    for (const Group* node : groups_at(old_tree_, Level::kNode)) {
      if (node->cpus.empty()) memory_alone_.push_back(node->node);
    }
    std::sort(memory_alone_.begin(), memory_alone_.end());
    prune(old_tree_, usage);
    choose_unit();
  }

  void run() {
    place({item_of(old_tree_)}, tree_);
    // A node is where most of its CPUs are.
    for (const Group* node : groups_at(old_tree_, Level::kNode)) {
      if (node->node >= 0 && !node->cpus.empty()) mapping_.node[node->node] = homes_of(node->cpus);
    }
  }

 private:
  void choose_unit() {
    const std::vector<const Group*> cores = groups_at(tree_, Level::kCore);
    unit_.cpus_per_core = ~uint64_t{0};
    for (const Group* core : cores) {
      unit_.cpus_per_core = std::min<uint64_t>(unit_.cpus_per_core, core->cpus.size());
    }
    if (cores.empty()) unit_.cpus_per_core = 1;
    if (unit_.demand(old_tree_) <= cores.size()) return;
    unit_.cores = false;
    const uint64_t wanted = usage_.cpus.size();
    const uint64_t here = std::max<uint64_t>(1, tree_.cpus.size());
    unit_.times = std::max<uint64_t>(1, (wanted + here - 1) / here);
  }

  uint64_t bytes_in(const Group& group) const {
    uint64_t sum = 0;
    for (const Group* node : groups_at(group, Level::kNode)) {
      const auto bytes = usage_.bytes.find(node->node);
      if (bytes != usage_.bytes.end()) sum += bytes->second;
    }
    return sum;
  }

  Item item_of(const Group& group) const { return {group, unit_.demand(group), bytes_in(group)}; }

  std::vector<Item> parts_of(const Item& item) const {
    std::vector<Item> parts;
    for (const Group& child : item.group.children) parts.push_back(item_of(child));
    // Bytes of a node that is taken apart go with its parts, by their CPUs.
    if (item.group.level >= Level::kNode && item.demand > 0) {
      for (Item& part : parts) part.bytes = item.bytes * part.demand / item.demand;
    }
    return parts;
  }

  Numbers homes_of(const Numbers& cpus) const {
    std::map<int, size_t> count;
    for (const int cpu : cpus) {
      const auto image = mapping_.cpu.find(cpu);
      if (image == mapping_.cpu.end()) continue;
      const int home = now_.home_of(image->second);
      if (home >= 0) ++count[home];
    }
    Numbers nodes;
    for (const auto& [node, cpus_there] : count) nodes.push_back(node);
    std::stable_sort(nodes.begin(), nodes.end(),
                     [&](int left, int right) { return count[left] > count[right]; });
    return nodes;
  }

  /// Shares the items out among the parts of `group`, and so on downwards.
  void place(std::vector<Item> items, const Group& group) {  // NOLINT(misc-no-recursion)
    if (items.empty()) return;
    if (group.level == Level::kCore) {
      size_t next = 0;
      for (const Item& item : items) {
        for (const int cpu : item.group.cpus) {
          mapping_.cpu[cpu] = group.cpus[next++ % group.cpus.size()];
        }
      }
      return;
    }
    if (group.level == Level::kNode) {
      for (const Item& item : items) {
        if (item.group.level == Level::kNode && item.group.cpus.empty()) {
          mapping_.node[item.group.node] = {group.node};
        }
      }
      std::erase_if(items, [](const Item& item) { return item.demand == 0; });
    }
    if (group.children.empty()) return;
    std::vector<Bin> bins;
    for (const Group& child : group.children) {
      Bin bin;
      bin.group = &child;
      bin.room = unit_.room(child);
      if (child.level <= Level::kNode) {
        for (const Group* node : groups_at(child, Level::kNode)) {
          const auto memory = memory_of_.find(node->node);
          if (memory != memory_of_.end()) bin.memory += memory->second;
        }
      }
      bins.push_back(std::move(bin));
    }
    share_out(of_level(std::move(items), bins.front().group->level), bins);
    for (Bin& bin : bins) place(std::move(bin.items), *bin.group);
  }

  /// Items larger than the level are taken apart.
  std::vector<Item> of_level(std::vector<Item> items, Level level) const {
    for (bool again = true; again;) {
      again = false;
      std::vector<Item> finer;
      for (Item& item : items) {
        if (item.group.level >= level || item.group.children.empty()) {
          finer.push_back(std::move(item));
          continue;
        }
        again = true;
        for (Item& part : parts_of(item)) finer.push_back(std::move(part));
      }
      items = std::move(finer);
    }
    return items;
  }

  bool is_memory_alone(const Item& item) const {
    const std::vector<const Group*> nodes = groups_at(item.group, Level::kNode);
    return !nodes.empty() && std::all_of(nodes.begin(), nodes.end(), [&](const Group* node) {
      return contains(memory_alone_, node->node);
    });
  }

  void share_out(std::vector<Item> items, std::vector<Bin>& all) {
    // Nodes of memory alone are for what lay in such a node, if there are any.
    std::vector<Bin*> bins;
    std::vector<Bin*> memory_bins;
    for (Bin& bin : all) (bin.room > 0 ? bins : memory_bins).push_back(&bin);
    std::vector<Item> rest;
    size_t next = 0;
    for (Item& item : items) {
      if (!memory_bins.empty() && (is_memory_alone(item) || (bins.empty() && item.demand == 0))) {
        memory_bins[next++ % memory_bins.size()]->add(std::move(item));
      } else {
        rest.push_back(std::move(item));
      }
    }
    if (rest.empty()) return;
    if (bins.empty()) bins = memory_bins;

    rest = without_giants(std::move(rest), bins);
    std::vector<Item> left_over = rest.size() <= bins.size() ? one_each(std::move(rest), bins)
                                                             : in_order(std::move(rest), bins);
    squeeze_in(std::move(left_over), bins);
  }

  /// Takes apart what is larger than every bin.
  std::vector<Item> without_giants(std::vector<Item> items, const std::vector<Bin*>& bins) const {
    uint64_t largest = 0;
    for (const Bin* bin : bins) largest = std::max(largest, bin->room);
    for (bool again = true; again;) {
      again = false;
      std::vector<Item> finer;
      for (Item& item : items) {
        if (item.demand <= largest || item.group.children.empty()) {
          finer.push_back(std::move(item));
          continue;
        }
        again = true;
        for (Item& part : parts_of(item)) finer.push_back(std::move(part));
      }
      items = std::move(finer);
    }
    return items;
  }

  static std::vector<Item> one_each(std::vector<Item> items, const std::vector<Bin*>& bins) {
    std::vector<Item> left_over;
    for (Item& item : items) {
      const auto bin = std::find_if(bins.begin(), bins.end(), [&](const Bin* candidate) {
        return candidate->items.empty() && candidate->fits(item);
      });
      if (bin != bins.end()) {
        (*bin)->add(std::move(item));
      } else {
        left_over.push_back(std::move(item));
      }
    }
    return left_over;
  }

  /// Fills one bin after the other, each with its share of CPUs and bytes.
  static std::vector<Item> in_order(std::vector<Item> items, const std::vector<Bin*>& bins) {
    constexpr uint64_t kWhole = 1'000'000;
    uint64_t demand = 0;
    uint64_t bytes = 0;
    uint64_t room = 0;
    for (const Item& item : items) {
      demand += item.demand;
      bytes += item.bytes;
    }
    const auto room_of = [](const Bin* bin) { return std::max<uint64_t>(1, bin->room); };
    for (const Bin* bin : bins) room += room_of(bin);
    const auto weight = [&](const Item& item) {
      return (demand > 0 ? item.demand * kWhole / demand : 0) +
             (bytes > 0 ? static_cast<uint64_t>(static_cast<double>(item.bytes) /
                                                static_cast<double>(bytes) * double{kWhole})
                        : 0);
    };
    uint64_t weight_left = 0;
    for (const Item& item : items) weight_left += weight(item);

    std::vector<Item> left_over;
    size_t next = 0;
    for (Bin* bin : bins) {
      const uint64_t target = room == 0 ? 0 : weight_left * room_of(bin) / room;
      uint64_t taken = 0;
      while (next < items.size() && bin->fits(items[next])) {
        const uint64_t more = weight(items[next]);
        if (!bin->items.empty() && taken + more / 2 > target) break;
        taken += more;
        bin->add(std::move(items[next++]));
      }
      weight_left -= std::min(weight_left, taken);
      room = std::max<uint64_t>(1, room - room_of(bin));
    }
    for (; next < items.size(); ++next) left_over.push_back(std::move(items[next]));
    return left_over;
  }

  /// What is left: into what has room, else taken apart, else where it is least crowded.
  void squeeze_in(std::vector<Item> items, const std::vector<Bin*>& bins) const {
    std::vector<Item> open(std::make_move_iterator(items.rbegin()),
                           std::make_move_iterator(items.rend()));
    const auto emptier = [](const Bin* left, const Bin* right) {
      return left->used_room * std::max<uint64_t>(1, right->room) <
             right->used_room * std::max<uint64_t>(1, left->room);
    };
    while (!open.empty()) {
      Item item = std::move(open.back());
      open.pop_back();
      Bin* best = nullptr;
      for (Bin* bin : bins) {
        if (bin->fits(item) && (best == nullptr || emptier(bin, best))) best = bin;
      }
      if (best == nullptr && !item.group.children.empty() && item.demand > 1) {
        std::vector<Item> parts = parts_of(item);
        for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
          open.push_back(std::move(*part));
        }
        continue;
      }
      if (best == nullptr) best = *std::min_element(bins.begin(), bins.end(), emptier);
      best->add(std::move(item));
    }
  }

  const Usage& usage_;
  const Machine& now_;
  Mapping& mapping_;
  Group old_tree_;
  Group tree_;
  Unit unit_;
  std::map<int, uint64_t> memory_of_;
  Numbers memory_alone_;
};

}  // namespace

void map_by_groups(const Machine& before, const Usage& usage, const Machine& now,
                   Mapping& mapping) {
  mapping = {};
  mapping.kind = Mapping::Kind::kRegrouped;
  Regrouping(before, usage, now, mapping).run();
}

}  // namespace fermata::numa
