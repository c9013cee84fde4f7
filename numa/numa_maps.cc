#include "numa/numa_maps.h"

#include <linux/mempolicy.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "numa/number_list.h"

namespace fermata::numa {
namespace {

constexpr int kWeightedInterleave = 6;  // MPOL_WEIGHTED_INTERLEAVE, since Linux 6.9

// As mpol_to_str() of the kernel's mm/mempolicy.c writes them; longer names before their
// beginnings.
constexpr std::array<std::pair<std::string_view, int>, 7> kPolicies{{
    {"weighted interleave", kWeightedInterleave},
    {"prefer (many)", MPOL_PREFERRED_MANY},
    {"prefer", MPOL_PREFERRED},
    {"interleave", MPOL_INTERLEAVE},
    {"default", MPOL_DEFAULT},
    {"local", MPOL_LOCAL},
    {"bind", MPOL_BIND},
}};

bool eat(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

std::string_view next_word(std::string_view& text) {
  const std::string_view word = text.substr(0, text.find(' '));
  text.remove_prefix(std::min(text.size(), word.size() + 1));
  return word;
}

}  // namespace

std::optional<NumaMap> parse_numa_maps_line(std::string_view line) {
  NumaMap map;
  const std::string_view address = next_word(line);
  const char* const end = address.data() + address.size();
  if (std::from_chars(address.data(), end, map.start, 16).ptr != end || address.empty()) {
    return std::nullopt;
  }
  const auto policy = std::find_if(kPolicies.begin(), kPolicies.end(),
                                   [&](const auto& row) { return eat(line, row.first); });
  if (policy == kPolicies.end()) return std::nullopt;
  map.policy_mode = policy->second;
  if (eat(line, "=static")) map.policy_mode |= MPOL_F_STATIC_NODES;
  if (eat(line, "=relative")) map.policy_mode |= MPOL_F_RELATIVE_NODES;
  if (eat(line, ":")) {
    auto nodes = parse_list(line.substr(0, line.find(' ')));
    if (!nodes) return std::nullopt;
    map.policy_nodes = *std::move(nodes);
  }
  next_word(line);
  while (!line.empty()) {
    const std::string_view word = next_word(line);
    int node = 0;
    uint64_t pages = 0;
    const char* const stop = word.data() + word.size();
    if (!word.starts_with('N')) continue;
    const auto number = std::from_chars(word.data() + 1, stop, node);
    if (number.ec != std::errc() || number.ptr == stop || *number.ptr != '=') continue;
    if (std::from_chars(number.ptr + 1, stop, pages).ptr == stop && pages > 0)
      map.pages[node] = pages;
  }
  return map;
}

std::vector<NumaMap> parse_numa_maps(std::string_view text) {
  std::vector<NumaMap> maps;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (auto map = parse_numa_maps_line(line)) maps.push_back(*std::move(map));
  }
  return maps;
}

}  // namespace fermata::numa
