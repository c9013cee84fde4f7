#include "numa/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "numa/number_list.h"

namespace fermata::numa {
namespace {

constexpr uint32_t kLocalDistance = 10;   // as firmware tells it (ACPI, SLIT)
constexpr uint32_t kRemoteDistance = 20;  // and what Linux takes where firmware tells nothing

std::string lists_of(const std::vector<Numbers>& sets, std::string_view name) {
  std::string text;
  for (const Numbers& set : sets) text += " " + format_list(set);
  return text.empty() ? text : fmt::format("; {}{}", name, text);
}

std::vector<Numbers> within_each(const std::vector<Numbers>& sets, const Numbers& allowed) {
  std::vector<Numbers> left;
  for (const Numbers& set : sets) {
    Numbers both = intersection(set, allowed);
    if (!both.empty()) left.push_back(std::move(both));
  }
  return left;
}

template <typename Lists>
Result<std::vector<Numbers>> sets_of(const Lists& lists) {
  std::vector<Numbers> sets;
  std::vector<bool> taken(kMaxNumber);
  for (const std::string& list : lists) {
    FERMATA_ASSIGN(Numbers set, parse_list(list));
    if (set.empty()) return failure(Code::kDamaged, "an object without CPUs");
    for (const int cpu : set) {
      if (taken.at(static_cast<size_t>(cpu))) {
        return failure(Code::kDamaged, fmt::format("CPU {} is in two objects of a kind", cpu));
      }
      taken.at(static_cast<size_t>(cpu)) = true;
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

}  // namespace

bool contains(const Numbers& numbers, int number) {
  return std::binary_search(numbers.begin(), numbers.end(), number);
}

bool includes(const Numbers& whole, const Numbers& part) {
  return std::includes(whole.begin(), whole.end(), part.begin(), part.end());
}

Numbers intersection(const Numbers& left, const Numbers& right) {
  Numbers both;
  std::set_intersection(left.begin(), left.end(), right.begin(), right.end(),
                        std::back_inserter(both));
  return both;
}

void unite(Numbers& numbers, const Numbers& more) {
  Numbers all;
  std::set_union(numbers.begin(), numbers.end(), more.begin(), more.end(), std::back_inserter(all));
  numbers = std::move(all);
}

Numbers Machine::cpus() const {
  Numbers all;
  for (const std::vector<Numbers>* sets : {&packages, &cores}) {
    for (const Numbers& set : *sets) unite(all, set);
  }
  for (const NumaNode& node : nodes) unite(all, node.cpus);
  return all;
}

Numbers Machine::node_numbers() const {
  Numbers numbers;
  for (const NumaNode& node : nodes) numbers.push_back(node.number);
  return numbers;
}

int Machine::home_of(int cpu) const {
  const NumaNode* home = nullptr;
  for (const NumaNode& node : nodes) {
    if (!contains(node.cpus, cpu)) continue;
    if (home == nullptr || node.cpus.size() < home->cpus.size()) home = &node;
  }
  return home == nullptr ? -1 : home->number;
}

uint32_t Machine::distance(int from, int to) const {
  const auto index = [&](int number) {
    const auto found = std::find_if(nodes.begin(), nodes.end(),
                                    [&](const NumaNode& node) { return node.number == number; });
    return static_cast<size_t>(found - nodes.begin());
  };
  const size_t row = index(from);
  const size_t column = index(to);
  const bool known = distances.size() == nodes.size() * nodes.size();
  if (known && row < nodes.size() && column < nodes.size()) {
    return distances[row * nodes.size() + column];
  }
  return from == to ? kLocalDistance : kRemoteDistance;
}

bool Machine::same_shape_and_numbers(const Machine& other) const {
  const auto same_node = [](const NumaNode& left, const NumaNode& right) {
    return left.number == right.number && left.cpus == right.cpus;
  };
  return std::equal(nodes.begin(), nodes.end(), other.nodes.begin(), other.nodes.end(),
                    same_node) &&
         packages == other.packages && l3_caches == other.l3_caches && cores == other.cores &&
         distances == other.distances;
}

std::string signature_of(const Machine& machine) {
  std::string text = "nodes";
  for (const NumaNode& node : machine.nodes) {
    text += fmt::format(" {}:{}", node.number, format_list(node.cpus));
  }
  return text + lists_of(machine.packages, "packages") + lists_of(machine.l3_caches, "L3") +
         lists_of(machine.cores, "cores");
}

Machine restricted(const Machine& machine, const Allowed& allowed) {
  const Numbers cpus = allowed.cpus.empty() ? machine.cpus() : allowed.cpus;
  Machine left;
  std::vector<size_t> kept;
  for (size_t i = 0; i < machine.nodes.size(); ++i) {
    NumaNode node = machine.nodes[i];
    node.cpus = intersection(node.cpus, cpus);
    const bool usable = allowed.nodes.empty() || contains(allowed.nodes, node.number);
    if (!usable && node.cpus.empty()) continue;
    kept.push_back(i);
    left.nodes.push_back(std::move(node));
  }
  left.packages = within_each(machine.packages, cpus);
  left.l3_caches = within_each(machine.l3_caches, cpus);
  left.cores = within_each(machine.cores, cpus);
  if (machine.distances.size() == machine.nodes.size() * machine.nodes.size()) {
    for (const size_t row : kept) {
      for (const size_t column : kept) {
        left.distances.push_back(machine.distances[row * machine.nodes.size() + column]);
      }
    }
  }
  return left;
}

image::Machine record_of(const Machine& machine) {
  image::Machine record;
  for (const NumaNode& node : machine.nodes) {
    image::NumaNode* one = record.add_nodes();
    one->set_number(node.number);
    one->set_cpus(format_list(node.cpus));
    one->set_bytes(node.bytes);
  }
  for (const Numbers& set : machine.packages) record.add_packages(format_list(set));
  for (const Numbers& set : machine.l3_caches) record.add_l3_caches(format_list(set));
  for (const Numbers& set : machine.cores) record.add_cores(format_list(set));
  record.mutable_distances()->Add(machine.distances.begin(), machine.distances.end());
  return record;
}

Result<Machine> machine_of(const image::Machine& record) {
  constexpr int kMostNodes = 1024;  // MAX_NUMNODES of any kernel
  constexpr int kMostSets = kMaxNumber;
  if (record.nodes_size() > kMostNodes || record.packages_size() > kMostSets ||
      record.l3_caches_size() > kMostSets || record.cores_size() > kMostSets) {
    return failure(Code::kDamaged, "a machine of too many parts");
  }
  Machine machine;
  for (const image::NumaNode& one : record.nodes()) {
    const int after = machine.nodes.empty() ? -1 : machine.nodes.back().number;
    if (one.number() <= after || one.number() >= kMaxNumber) {
      return failure(Code::kDamaged, fmt::format("NUMA node {} is out of order", one.number()));
    }
    FERMATA_ASSIGN(Numbers cpus, parse_list(one.cpus()));
    machine.nodes.push_back({one.number(), std::move(cpus), one.bytes()});
  }
  FERMATA_ASSIGN(machine.packages, sets_of(record.packages()));
  FERMATA_ASSIGN(machine.l3_caches, sets_of(record.l3_caches()));
  FERMATA_ASSIGN(machine.cores, sets_of(record.cores()));
  const size_t square = machine.nodes.size() * machine.nodes.size();
  if (record.distances_size() != 0 && static_cast<size_t>(record.distances_size()) != square) {
    return failure(Code::kDamaged, "distances between other nodes than it has");
  }
  machine.distances.assign(record.distances().begin(), record.distances().end());
  return machine;
}

}  // namespace fermata::numa
