#include <fmt/format.h>

#include "common/size_parse.h"
#include "numa/drawing.h"
#include "numa/number_list.h"
#include "numa/picture.h"

namespace fermata::numa {
namespace {

std::string memory_of(const Drawing& drawing, int node) {
  std::string text = fmt::format("node {}", node);
  const auto size = drawing.size.find(node);
  if (size != drawing.size.end() && size->second > 0) {
    text += fmt::format(" ({})", format_size(size->second));
  }
  const auto bytes = drawing.bytes.find(node);
  if (bytes == drawing.bytes.end()) return text;
  for (const auto& [process, amount] : bytes->second) {
    text += fmt::format("{} {} of process {}", bytes->second.begin()->first == process ? ":" : ",",
                        format_size(amount), process);
  }
  return text;
}

std::string name_of(const Drawing& drawing, const Group& group) {
  const std::string cpus = format_list(group.cpus);
  switch (group.level) {
    case Level::kMachine:
      return fmt::format("machine: {} NUMA nodes, {} CPUs", drawing.machine.nodes.size(),
                         group.cpus.size());
    case Level::kPackage:
      return group.cpus.empty() ? "memory without CPUs" : fmt::format("package, CPUs {}", cpus);
    case Level::kNode:
      return group.node < 0 ? fmt::format("no node, CPUs {}", cpus)
                            : memory_of(drawing, group.node);
    case Level::kCache:
      return fmt::format("cache, CPUs {}", cpus);
    default:
      return fmt::format("core, CPUs {}", cpus);
  }
}

void write(const Drawing& drawing, const Group& group, size_t depth,  // NOLINT(misc-no-recursion)
           std::string& text) {
  // A cache level with one group tells nothing that its node does not.
  const bool told = group.level != Level::kCache || !drawing.machine.l3_caches.empty();
  if (told) {
    text += fmt::format("{:{}}{}", "", 2 * depth, name_of(drawing, group));
    const bool forbidden = !drawing.allowed_cpus.empty() && !group.cpus.empty() &&
                           intersection(drawing.allowed_cpus, group.cpus).empty();
    if (forbidden && group.level >= Level::kNode) text += " (not allowed)";
    const std::string threads = drawing.threads_at(group);
    if (!threads.empty()) text += " <- " + threads;
    text += '\n';
  } else if (!drawing.threads_at(group).empty()) {
    text += fmt::format("{:{}}<- {}\n", "", 2 * depth, drawing.threads_at(group));
  }
  if (group.level == Level::kCore) return;
  for (const Group& child : group.children) write(drawing, child, depth + (told ? 1 : 0), text);
}

}  // namespace

Result<std::string> picture_text(const image::Placement& placement) {
  Drawing drawing;
  FERMATA_TRY_RESULT(draw(placement, drawing));
  std::string text;
  write(drawing, drawing.tree, 0, text);
  return text;
}

}  // namespace fermata::numa
