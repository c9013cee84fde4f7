#include <fmt/format.h>

#include <iterator>
#include <set>

#include "common/size_parse.h"
#include "storage/describe.h"
#include "storage/printable.h"
#include "storage/summary.h"

namespace fermata::storage {
namespace {

std::string counts(const std::map<std::string, unsigned>& by_kind) {
  std::string text;
  for (const auto& [kind, count] : by_kind) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, kind);
  }
  return text.empty() ? "none" : text;
}

std::string sizes(const BytesByWhere& bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", format_size(bytes[i]),
                        where_name(static_cast<Where>(i)));
  }
  return text.empty() ? "none" : text;
}

class TextWriter {
 public:
  explicit TextWriter(const PodImage& image) : image_(image), summary_(summarize(image)) {}

  std::string write() {
    header();
    line("processes  {}", summary_.processes.size());
    for (const ProcessSummary& process : summary_.processes)
      by_parent_.emplace(process.process->parent(), &process);
    tree(0, 1);
    // Of a parent that is not in the image, or in a circle: an image may say anything.
    for (const ProcessSummary& process : summary_.processes) {
      if (!written_.contains(&process)) one_process(process, 1);
    }
    line("files      {}", counts(summary_.files));
    line("shared     {} objects, {} nodes in /dev/shm: {}", image_.objects.shared_objects_size(),
         image_.objects.shm_nodes_size(), sizes(summary_.object_memory));
    line("memory     {}", sizes(summary_.memory));
    line("topology   {}", printable(image_.placement.topology_signature()));
    return std::move(text_);
  }

 private:
  static constexpr size_t kDeepest = 40;

  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
    text_ += '\n';
  }

  void header() {
    const ImageHeader& header = image_.header;
    line("image      format {}.{}, CRID {}, {}", header.format_major, header.format_minor,
         header.crid.value,
         header.parent.value == 0 ? "full" : fmt::format("builds on {}", header.parent.value));
    if (!header.track.empty()) line("writes     tracked by: {}", printable(header.track));
    line("job        {}, pod {}", to_string(header.job), header.pod);
    line("taken      {} on {} (Linux {}), by fermata {}", printable(header.time),
         printable(header.host), printable(header.kernel), printable(header.tool_version));
    const image::Requirements& needs = image_.objects.needs();
    line("needs      {}, {} CPU features, {} bytes of extended state",
         needs.cpu_vendor().empty() ? "x86_64" : printable(needs.cpu_vendor()),
         needs.cpu_flags_size(), needs.xstate_size());
  }

  void tree(int parent, size_t depth) {
    const auto [first, last] = by_parent_.equal_range(parent);
    for (auto at = first; at != last; ++at) {
      if (!written_.insert(at->second).second) continue;
      one_process(*at->second, depth);
      if (depth < kDeepest) tree(at->second->process->vpid(), depth + 1);
    }
  }

  void one_process(const ProcessSummary& summary, size_t depth) {
    const image::Process& process = *summary.process;
    const std::string indent(2 * depth, ' ');
    const std::string inner(2 * depth + 4, ' ');
    line("{}{} {}{}, {} thread{}, {} maps, {}", indent, process.vpid(), printable(process.name()),
         process.zombie()    ? " (zombie)"
         : process.stopped() ? " (stopped)"
                             : "",
         process.threads_size(), process.threads_size() == 1 ? "" : "s", process.vmas_size(),
         sizes(summary.memory));
    if (!summary.files.empty()) line("{}files: {}", inner, counts(summary.files));
    placement(summary, inner);
  }

  void placement(const ProcessSummary& summary, const std::string& indent) {
    std::map<std::string, unsigned> threads_on;  // by CPUs
    for (const image::ThreadPlacement* thread : summary.threads) ++threads_on[thread->cpuset()];
    std::string text;
    for (const auto& [cpus, threads] : threads_on) {
      text += fmt::format("{}{} thread{} on CPUs {}", text.empty() ? "" : ", ", threads,
                          threads == 1 ? "" : "s", printable(cpus));
    }
    for (const auto& [node, bytes] : summary.bytes_on_node) {
      text += fmt::format("{}{} on node {}", text.empty() ? "" : ", ", format_size(bytes), node);
    }
    if (summary.bound_ranges > 0) {
      text += fmt::format("{}{} ranges with a memory policy", text.empty() ? "" : ", ",
                          summary.bound_ranges);
    }
    if (!text.empty()) line("{}placed: {}", indent, text);
  }

  const PodImage& image_;
  ImageSummary summary_;
  std::multimap<int, const ProcessSummary*> by_parent_;
  std::set<const ProcessSummary*> written_;
  std::string text_;
};

}  // namespace

std::string describe_text(const PodImage& image) { return TextWriter(image).write(); }

}  // namespace fermata::storage
