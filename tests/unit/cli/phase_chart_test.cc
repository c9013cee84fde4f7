// What a set's times look like.
#include "cli/phase_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fermata::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

storage::Manifest manifest(size_t nodes) {
  storage::Manifest manifest;
  manifest.crid = {7};
  manifest.job = {12, 0};
  manifest.time = "2026-11-20T21:00:00Z";
  manifest.phases_ms = {
      {"prepare", 10}, {"isolate", 1}, {"capture", 40}, {"join", 2}, {"write back", 1000}};
  for (size_t i = 0; i < nodes; ++i) {
    storage::ManifestImage image;
    image.pod = static_cast<uint32_t>(i);
    image.host = "n" + std::to_string(i);
    image.phases_ms = {5, 1, 20.0 + static_cast<double>(i), 2, 900};
    manifest.images.push_back(image);
  }
  return manifest;
}

TEST(PhaseBars, ScaleToTheSlowest) {
  const storage::Manifest set = manifest(2);
  const std::vector<std::string> bars = phase_bars(set, 80, false);
  ASSERT_THAT(bars, SizeIs(10));
  EXPECT_EQ(bars[0], "  prepare          10.0 ms   n0        5.0 ms  " + std::string(17, '#'));
  EXPECT_EQ(bars[1], "                             n1        5.0 ms  " + std::string(17, '#'));
  for (const std::string& bar : bars) EXPECT_LE(bar.size(), 80U);
  EXPECT_THAT(phase_bars(set, 80, true)[2], HasSubstr("\u2588"));
}

TEST(PhaseBars, OfManyNodesTheSlowestAreShown) {
  const std::vector<std::string> bars = phase_bars(manifest(100), 80, false);
  ASSERT_THAT(bars, SizeIs(5 * 9));
  EXPECT_THAT(bars[18], HasSubstr("n99"));
  EXPECT_THAT(bars[26], HasSubstr("and 92 nodes that were faster"));
}

TEST(PhaseBars, PhasesAlone_WhereNodesWereNotTimed) {
  storage::Manifest old = manifest(1);
  old.images[0].phases_ms.clear();
  old.phases_ms.resize(2);
  EXPECT_THAT(phase_bars(old, 80, false),
              ElementsAre("  prepare          10.0 ms", "  isolate           1.0 ms"));
}

TEST(PhaseSvg, HasEveryPhaseOfEveryNode_AndNoMarkupOfNames) {
  storage::Manifest set = manifest(3);
  set.images[1].host = "<script>&\x1b";
  const std::string svg = phase_svg(set);
  EXPECT_THAT(svg, HasSubstr("Checkpoint 7 of job 12.0"));
  EXPECT_THAT(svg, HasSubstr("<title>write back on n2: 900.00 ms</title>"));
  EXPECT_THAT(svg, HasSubstr("&lt;script&gt;&amp;"));
  EXPECT_THAT(svg, Not(HasSubstr("<script>")));
  EXPECT_THAT(svg, Not(HasSubstr("\x1b")));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace fermata::cli
