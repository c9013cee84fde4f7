#include "numa/picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "numa/topology.h"
#include "tests/unit/numa/job_model.h"

namespace fermata::numa {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Topology four_nodes() {
  auto topology = described_topology("package:2 numa:2 core:1 pu:2");
  return topology ? *topology : Topology{};
}

image::Placement small_job() { return test::job_on(four_nodes(), test::Binding::kNode, 1, 2); }

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Picture, ShowsThreadsAndMemoryWhereTheyAre) {
  const auto text = picture_text(small_job());
  ASSERT_TRUE(text) << text.error().message();
  EXPECT_THAT(*text, HasSubstr("machine: 4 NUMA nodes, 8 CPUs\n  package, CPUs 0-3\n    node 0"));
  EXPECT_THAT(*text, HasSubstr("of process 10"));
  EXPECT_THAT(*text, HasSubstr("core, CPUs 0-1 <- 10/10 10/1010 10/2010\n"));
  EXPECT_THAT(*text, HasSubstr("core, CPUs 2-3 <- 11/11 11/1011 11/2011\n"));
  EXPECT_EQ(count(*text, "core, "), 4U);
}

TEST(Picture, MarksWhatIsNotAllowed) {
  image::Placement job = small_job();
  job.set_allowed_cpus("0-3");
  const auto text = picture_text(job);
  ASSERT_TRUE(text);
  EXPECT_THAT(*text, HasSubstr("core, CPUs 4-5 (not allowed)\n"));
  EXPECT_THAT(*text, Not(HasSubstr("core, CPUs 2-3 (not allowed)")));
}

TEST(Picture, IsSvgThatCloses) {
  const auto svg = picture_svg(small_job(), "a <title> & more");
  ASSERT_TRUE(svg) << svg.error().message();
  EXPECT_THAT(*svg, HasSubstr("a &lt;title&gt; &amp; more"));
  EXPECT_EQ(count(*svg, "<g "), count(*svg, "</g>"));
  EXPECT_EQ(count(*svg, "<text "), count(*svg, "</text>"));
  EXPECT_TRUE(svg->starts_with("<svg "));
  EXPECT_TRUE(svg->ends_with("</svg>\n"));
  EXPECT_EQ(count(*svg, ">core "), 4U);
}

TEST(Picture, CanBeDrawn_OfEveryMachineOfTheCollection) {
  for (const char* text :
       {"numa:1 package:2 core:2 pu:1", "core:1 pu:1", "package:2 [numa] [numa] core:4 pu:1",
        "package:4 numa:4 l3:2 core:4 pu:2"}) {
    const auto topology = described_topology(text);
    ASSERT_TRUE(topology);
    const image::Placement job = test::job_on(*topology, test::Binding::kAnything, 3);
    EXPECT_TRUE(picture_text(job)) << text;
    EXPECT_TRUE(picture_svg(job, text)) << text;
  }
}

TEST(Picture, RefusesAPlacementThatIsNone) {
  image::Placement job = small_job();
  job.mutable_threads(0)->set_cpuset("x");
  EXPECT_FALSE(picture_text(job));
  EXPECT_FALSE(picture_svg(job, ""));
}

}  // namespace
}  // namespace fermata::numa
