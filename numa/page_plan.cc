#include "numa/page_plan.h"

#include <algorithm>

#include "numa/locality.h"
#include "numa/number_list.h"

namespace fermata::numa {
namespace {

constexpr uint64_t kGrain = uint64_t{2} << 20;

image::PageRun part_on(const image::PageRun& run, uint64_t start, uint64_t end, int node) {
  image::PageRun part = part_of(run, start, end);
  part.set_node(node);
  part.clear_nodes();
  return part;
}

}  // namespace

image::PageRun part_of(const image::PageRun& run, uint64_t start, uint64_t end) {
  image::PageRun part = run;
  part.set_start(start);
  part.set_length(end - start);
  const auto share = static_cast<double>(end - start) / static_cast<double>(run.length());
  part.set_bytes(static_cast<uint64_t>(static_cast<double>(bytes_of(run)) * share));
  return part;
}

PagePlan::PagePlan(const Mapping& mapping, const Machine& before, const Machine& now,
                   Numbers all_before, Numbers usable)
    : mapping_(mapping),
      before_(before),
      now_(now),
      all_before_(std::move(all_before)),
      usable_(std::move(usable)) {}

void PagePlan::add_thread(int vpid, const Numbers& cpus) {
  constexpr uint64_t kThread = 1'000'000;
  for (const int cpu : cpus) {
    const auto image = mapping_.cpu.find(cpu);
    const int node = before_.home_of(cpu);
    if (image == mapping_.cpu.end() || node < 0) continue;
    const int home = now_.home_of(image->second);
    if (contains(usable_, home)) readers_[{vpid, node}][home] += kThread / cpus.size();
  }
}

void PagePlan::add_run(int vpid, const image::PageRun& run, int node) {
  bytes_[{vpid, node}] += bytes_of(run);
}

int PagePlan::primary(int node) const {
  const auto images = mapping_.node.find(node);
  return images == mapping_.node.end() || images->second.empty() ? -1 : images->second.front();
}

std::vector<PagePlan::Place>& PagePlan::places(const Key& key) {
  auto [at, fresh] = places_.try_emplace(key);
  if (!fresh) return at->second;
  const std::map<int, uint64_t>& readers = readers_[key];
  uint64_t weight = 0;
  for (const auto& [node, share] : readers) weight += share;
  for (const auto& [node, share] : readers) {
    const double part = static_cast<double>(share) / static_cast<double>(weight);
    at->second.push_back({node, static_cast<uint64_t>(static_cast<double>(bytes_[key]) * part)});
  }
  if (at->second.empty()) at->second.push_back({primary(key.second), 0});
  return at->second;
}

std::vector<image::PageRun> PagePlan::place(int vpid, const image::PageRun& run,
                                            const Numbers& nodes, bool shared) {
  if (nodes.size() > 1) {
    const Numbers images = images_of(nodes);
    if (images.empty()) return {};
    image::PageRun mixed = run;
    mixed.set_node(images.front());
    mixed.clear_nodes();
    if (images.size() > 1) mixed.set_nodes(format_list(images));
    return {mixed};
  }
  const int node = nodes.front();
  const uint64_t end = run.start() + run.length();
  if (shared) {
    if (primary(node) < 0) return {};
    return {part_on(run, run.start(), end, primary(node))};
  }
  std::vector<Place>& open = places({vpid, node});
  if (open.front().node < 0) return {};
  std::vector<image::PageRun> parts;
  uint64_t start = run.start();
  while (start < end) {
    Place& place = open.front();
    const image::PageRun rest = part_on(run, start, end, place.node);
    uint64_t stop = end;
    if (open.size() > 1 && rest.bytes() >= place.bytes) {
      const auto share = static_cast<double>(place.bytes) /
                         static_cast<double>(std::max<uint64_t>(1, rest.bytes()));
      const uint64_t exact =
          start + static_cast<uint64_t>(static_cast<double>(end - start) * share);
      stop = std::clamp((exact + kGrain / 2) / kGrain * kGrain, start, end);
    }
    const image::PageRun part = part_on(run, start, stop, place.node);
    if (stop > start) parts.push_back(part);
    if (stop < end) {
      open.erase(open.begin());
    } else if (open.size() > 1) {
      place.bytes -= std::min(place.bytes, part.bytes());
      if (place.bytes == 0) open.erase(open.begin());
    }
    start = stop;
  }
  return parts;
}

Numbers PagePlan::images_of(const Numbers& nodes) const {
  if (all_before_.size() > 1 && includes(nodes, all_before_)) return usable_;
  Numbers images;
  for (const int node : nodes) {
    const auto to = mapping_.node.find(node);
    if (to == mapping_.node.end()) continue;
    for (const int image : to->second) unite(images, {image});
  }
  return images;
}

int PagePlan::primary_of(const Numbers& nodes) const {
  for (const int node : nodes) {
    if (primary(node) >= 0) return primary(node);
  }
  return -1;
}

}  // namespace fermata::numa
