#include "cli/phase_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "storage/printable.h"

namespace fermata::cli {
namespace {

using storage::Manifest;
using storage::ManifestImage;

constexpr size_t kNodesOfAPhase = 8;
constexpr std::string_view kBlock = "\u2588";
/// Eighths of a block, of a bar's last column.
constexpr std::array<std::string_view, 8> kEighths{"",       "\u258f", "\u258e", "\u258d",
                                                   "\u258c", "\u258b", "\u258a", "\u2589"};

/// `share` of `columns`, 0 to 1.
std::string bar(double share, size_t columns, bool utf8) {
  if (!utf8) {
    return std::string(static_cast<size_t>(std::lround(share * static_cast<double>(columns))), '#');
  }
  const auto eighths = static_cast<size_t>(std::lround(share * static_cast<double>(columns) * 8));
  std::string text;
  for (size_t i = 0; i < eighths / 8; ++i) text += kBlock;
  text += kEighths[eighths % 8];
  return text;
}

std::vector<const ManifestImage*> timed(const Manifest& manifest) {
  std::vector<const ManifestImage*> images;
  for (const ManifestImage& image : manifest.images) {
    if (image.phases_ms.size() == manifest.phases_ms.size()) images.push_back(&image);
  }
  return images;
}

/// All, or the slowest of many in this phase.
std::vector<const ManifestImage*> shown(std::vector<const ManifestImage*> images, size_t phase) {
  if (images.size() <= kNodesOfAPhase) return images;
  std::stable_sort(images.begin(), images.end(), [&](const auto* a, const auto* b) {
    return a->phases_ms[phase] > b->phases_ms[phase];
  });
  images.resize(kNodesOfAPhase);
  return images;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : storage::printable(text)) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

constexpr double kLabels = 130;
constexpr double kPlot = 760;
constexpr double kRow = 22;
constexpr std::array<std::string_view, 6> kColours{"#8da0cb", "#fc8d62", "#e5446d",
                                                   "#a6d854", "#66c2a5", "#ffd92f"};

/// Phases [first, last) of all nodes over time, below `top`.
class Panel {
 public:
  Panel(const Manifest& manifest, std::string title, size_t first, size_t last, double top)
      : manifest_(manifest), title_(std::move(title)), first_(first), last_(last), top_(top) {
    for (size_t i = first; i < last; ++i) total_ += manifest.phases_ms[i].second;
  }

  double height() const { return kRow * static_cast<double>(timed(manifest_).size() + 2); }

  void draw(std::string& out) const {
    out += fmt::format(R"(<text x="4" y="{:.1f}" class="title">{}, {:.1f} ms</text>)"
                       "\n",
                       top_ + 15, title_, total_);
    double y = top_ + kRow;
    for (const ManifestImage* image : timed(manifest_)) {
      out += fmt::format(R"(<text x="4" y="{:.1f}">pod {} on {}</text>)"
                         "\n",
                         y + 15, image->pod, escaped(image->host));
      row(out, *image, y);
      y += kRow;
    }
    barriers(out, y);
  }

 private:
  double x_of(double ms) const { return kLabels + (total_ > 0 ? ms / total_ * kPlot : 0); }

  void row(std::string& out, const ManifestImage& image, double y) const {
    double begin = 0;
    for (size_t i = first_; i < last_; ++i) {
      const double length = std::min(image.phases_ms[i], total_ - begin);
      out += fmt::format(R"(<rect x="{:.2f}" y="{:.1f}" width="{:.2f}" height="{:.1f}" fill="{}">)"
                         R"(<title>{} on {}: {:.2f} ms</title></rect>)"
                         "\n",
                         x_of(begin), y + 3, std::max(x_of(begin + length) - x_of(begin), 0.6),
                         kRow - 6, kColours[i % kColours.size()],
                         escaped(manifest_.phases_ms[i].first), escaped(image.host),
                         image.phases_ms[i]);
      begin += manifest_.phases_ms[i].second;
    }
  }

  void barriers(std::string& out, double bottom) const {
    double at = 0;
    for (size_t i = first_; i < last_; ++i) {
      at += manifest_.phases_ms[i].second;
      out += fmt::format(R"(<line x1="{0:.2f}" y1="{1:.1f}" x2="{0:.2f}" y2="{2:.1f}"/>)"
                         "\n",
                         x_of(at), top_ + kRow, bottom);
    }
  }

  const Manifest& manifest_;
  std::string title_;
  size_t first_;
  size_t last_;
  double top_;
  double total_ = 0;
};

void legend(std::string& out, const Manifest& manifest, double y) {
  double x = kLabels;
  for (size_t i = 0; i < manifest.phases_ms.size(); ++i) {
    const auto& [name, ms] = manifest.phases_ms[i];
    out += fmt::format(R"(<rect x="{:.1f}" y="{:.1f}" width="12" height="12" fill="{}"/>)"
                       R"(<text x="{:.1f}" y="{:.1f}">{} {:.1f} ms</text>)"
                       "\n",
                       x, y, kColours[i % kColours.size()], x + 16, y + 11, escaped(name), ms);
    x += kPlot / 6;
  }
}

size_t place_of(const Manifest& manifest, std::string_view phase, size_t otherwise) {
  for (size_t i = 0; i < manifest.phases_ms.size(); ++i) {
    if (manifest.phases_ms[i].first == phase) return i;
  }
  return otherwise;
}

}  // namespace

std::vector<std::string> phase_bars(const Manifest& manifest, size_t width, bool utf8) {
  const std::vector<const ManifestImage*> images = timed(manifest);
  size_t names = 0;
  for (const ManifestImage* image : images) {
    names = std::max(names, storage::printable(image->host).size());
  }
  const size_t before = 2 + 12 + 12 + 3 + names + 14 + 2;
  const size_t columns = width > before + 10 ? width - before : 10;
  std::vector<std::string> lines;
  for (size_t phase = 0; phase < manifest.phases_ms.size(); ++phase) {
    const auto& [name, ms] = manifest.phases_ms[phase];
    std::string head =
        fmt::format("  {:<12}{:>12}", storage::printable(name), fmt::format("{:.1f} ms", ms));
    double longest = ms;
    for (const ManifestImage* image : images) longest = std::max(longest, image->phases_ms[phase]);
    for (const ManifestImage* image : shown(images, phase)) {
      const double took = image->phases_ms[phase];
      lines.push_back(fmt::format(
          "{:<26}   {:<{}}{:>14}  {}", head, storage::printable(image->host), names,
          fmt::format("{:.1f} ms", took), bar(longest > 0 ? took / longest : 0, columns, utf8)));
      head.clear();
    }
    if (images.empty()) lines.push_back(head);
    if (images.size() > kNodesOfAPhase) {
      lines.push_back(fmt::format("{:<26}   and {} nodes that were faster", "",
                                  images.size() - kNodesOfAPhase));
    }
  }
  return lines;
}

std::string phase_svg(const Manifest& manifest) {
  const size_t count = manifest.phases_ms.size();
  const size_t cut = place_of(manifest, "isolate", 0);
  const size_t joined = std::min(place_of(manifest, "join", count) + 1, count);
  const double top = 54;
  const Panel whole(manifest, "The whole set", 0, count, top);
  const Panel held(manifest, "Cables cut: isolate to join", cut, std::max(cut, joined),
                   top + whole.height());
  const double width = kLabels + kPlot + 20;
  const double height = top + whole.height() + held.height();
  std::string out = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0:.0f}" height="{1:.0f}" )"
      R"(viewBox="0 0 {0:.0f} {1:.0f}" font-family="sans-serif" font-size="12">)"
      "\n<style>.title{{font-weight:bold}} line{{stroke:#555;stroke-dasharray:2 3}}</style>\n"
      R"(<rect width="100%" height="100%" fill="white"/>)"
      "\n"
      R"(<text x="4" y="18" class="title">Checkpoint {2} of job {3}, {4}</text>)"
      "\n",
      width, height, to_string(manifest.crid), to_string(manifest.job), escaped(manifest.time));
  legend(out, manifest, 28);
  whole.draw(out);
  held.draw(out);
  return out + "</svg>\n";
}

}  // namespace fermata::cli
