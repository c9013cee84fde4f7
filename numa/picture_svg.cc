#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "common/size_parse.h"
#include "numa/drawing.h"
#include "numa/number_list.h"
#include "numa/picture.h"

namespace fermata::numa {
namespace {

constexpr unsigned kGap = 6;
constexpr unsigned kLine = 16;  // a line of text
constexpr unsigned kCoreWidth = 112;
constexpr unsigned kNarrowest = 260;

std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    if (c == '<') {
      safe += "&lt;";
    } else if (c == '>') {
      safe += "&gt;";
    } else if (c == '&') {
      safe += "&amp;";
    } else if (c == '"') {
      safe += "&quot;";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      safe += ' ';
    } else {
      safe += c;
    }
  }
  return safe;
}

/// One colour for each process, apart from its neighbours'.
std::string colour_of(int process) {
  return fmt::format("hsl({},60%,70%)", static_cast<unsigned>(process) * 137U % 360U);
}

struct Box {
  unsigned width = 0;
  unsigned height = 0;
  std::string body;  // drawn from its own corner
};

class SvgWriter {
 public:
  explicit SvgWriter(const Drawing& drawing) : drawing_(drawing) {}

  Box box(const Group& group) const {  // NOLINT(misc-no-recursion): five levels
    if (group.level == Level::kCore) return core(group);
    const bool framed = group.level != Level::kCache || !drawing_.machine.l3_caches.empty();
    Box result;
    unsigned top = framed ? kLine + kGap : 0;
    if (framed) text(result.body, kGap, kLine, title_of(group));
    if (group.level == Level::kNode && group.node >= 0) memory(group.node, top, result);
    const std::string threads = drawing_.threads_at(group);
    if (!threads.empty()) {
      text(result.body, kGap, top + kLine - 4, threads);
      top += kLine + kGap;
    }
    children(group, top, framed ? kGap : 0, result);
    if (framed) {
      result.width = std::max(result.width, group.level <= Level::kNode ? kNarrowest : 0U);
      result.body = frame(result.width, result.height, "none") + result.body;
    }
    return result;
  }

 private:
  static std::string frame(unsigned width, unsigned height, std::string_view fill) {
    return fmt::format("<rect width=\"{}\" height=\"{}\" fill=\"{}\" stroke=\"#555\" rx=\"3\"/>\n",
                       width, height, fill);
  }

  static void text(std::string& body, unsigned x, unsigned y, std::string_view words) {
    fmt::format_to(std::back_inserter(body), "<text x=\"{}\" y=\"{}\">{}</text>\n", x, y,
                   escaped(words));
  }

  static void put(std::string& body, unsigned x, unsigned y, const Box& inner) {
    fmt::format_to(std::back_inserter(body), "<g transform=\"translate({},{})\">\n{}</g>\n", x, y,
                   inner.body);
  }

  std::string title_of(const Group& group) const {
    const std::string cpus = format_list(group.cpus);
    switch (group.level) {
      case Level::kMachine:
        return "machine";
      case Level::kPackage:
        return "package " + cpus;
      case Level::kNode: {
        const auto size = drawing_.size.find(group.node);
        const bool known = size != drawing_.size.end() && size->second > 0;
        return fmt::format("node {}{}", group.node,
                           known ? ", " + format_size(size->second) : std::string());
      }
      default:
        return "L3 " + cpus;
    }
  }

  Box core(const Group& group) const {
    Box result{kCoreWidth, 2 * kLine + kGap, {}};
    const bool allowed =
        drawing_.allowed_cpus.empty() || !intersection(drawing_.allowed_cpus, group.cpus).empty();
    const auto threads = drawing_.threads.find(&group);
    const bool used = threads != drawing_.threads.end();
    result.body = frame(result.width, result.height,
                        used      ? colour_of(threads->second.front().first)
                        : allowed ? "#fff"
                                  : "#ccc");
    text(result.body, 4, kLine - 2, "core " + format_list(group.cpus));
    text(result.body, 4, 2 * kLine, drawing_.threads_at(group));
    return result;
  }

  /// A bar for each process that has bytes there, as long as its share of them.
  void memory(int node, unsigned& top, Box& result) const {
    const auto found = drawing_.bytes.find(node);
    if (found == drawing_.bytes.end()) return;
    uint64_t all = 0;
    for (const auto& [process, bytes] : found->second) all += bytes;
    for (const auto& [process, bytes] : found->second) {
      const auto part = static_cast<unsigned>(static_cast<double>(kNarrowest - 2 * kGap) *
                                              static_cast<double>(bytes) /
                                              static_cast<double>(std::max<uint64_t>(1, all)));
      fmt::format_to(std::back_inserter(result.body),
                     "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>\n", kGap,
                     top, std::max(1U, part), kLine, colour_of(process));
      text(result.body, kGap + 4, top + kLine - 4,
           fmt::format("{} of process {}", format_size(bytes), process));
      top += kLine + 2;
    }
    top += kGap;
    result.width = kNarrowest;
  }

  /// Cores in rows of four, all else beside each other.
  void children(const Group& group, unsigned top, unsigned margin,  // NOLINT(misc-no-recursion)
                Box& result) const {
    constexpr size_t kInRow = 4;
    unsigned x = margin;
    unsigned y = top;
    unsigned row = 0;
    for (size_t i = 0; i < group.children.size(); ++i) {
      if (i > 0 && i % kInRow == 0) {
        x = margin;
        y += row + kGap;
        row = 0;
      }
      const Box inner = box(group.children[i]);
      put(result.body, x, y, inner);
      x += inner.width + kGap;
      row = std::max(row, inner.height);
      result.width = std::max(result.width, x - kGap + margin);
    }
    result.height = y + row + margin;
  }

  const Drawing& drawing_;
};

}  // namespace

Result<std::string> picture_svg(const image::Placement& placement, std::string_view title) {
  Drawing drawing;
  FERMATA_TRY_RESULT(draw(placement, drawing));
  const Box all = SvgWriter(drawing).box(drawing.tree);
  const unsigned top = kLine + 2 * kGap;
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
      "font-family=\"sans-serif\" font-size=\"11\">\n"
      "<text x=\"{}\" y=\"{}\" font-size=\"14\">{}</text>\n"
      "<g transform=\"translate({},{})\">\n{}</g>\n</svg>\n",
      all.width + 2 * kGap, all.height + top + kGap, kGap, kLine, escaped(title), kGap, top,
      all.body);
}

}  // namespace fermata::numa
