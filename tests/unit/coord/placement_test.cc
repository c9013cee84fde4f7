// Which pod goes where.
#include "coord/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fermata::coord {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<NodeRoom>& nodes() {
  static const std::vector<NodeRoom> nodes{
      {"n1", 4, 0, true}, {"n2", 4, 2, true}, {"n3", 8, 0, true}, {"n4", 8, 0, false}};
  return nodes;
}

TEST(PlaceRun, TakesAsFewNodesAsHoldTheRanks) {
  EXPECT_THAT(place_run(nodes(), 8, {}, 0)->nodes, ElementsAre("n3"));
  const Placement placement = *place_run(nodes(), 10, {}, 0);
  EXPECT_THAT(placement.nodes, ElementsAre("n1", "n3"));
  EXPECT_THAT(placement.pod_of_rank, ElementsAre(0, 0, 0, 0, 1, 1, 1, 1, 1, 1));
}

TEST(PlaceRun, DealsEvenBlocks_WithinTheSlots) {
  EXPECT_THAT(place_run(nodes(), 7, {}, 3)->pod_of_rank, ElementsAre(0, 0, 0, 1, 1, 2, 2));
  EXPECT_THAT(place_run(nodes(), 5, {"n3", "n1"}, 0)->pod_of_rank, ElementsAre(0, 0, 0, 1, 1));
  EXPECT_THAT(place_run(nodes(), 3, {"n3", "n1"}, 2)->nodes, ElementsAre("n3", "n1"));
}

TEST(PlaceRun, SaysWhatIsMissing) {
  EXPECT_THAT(place_run(nodes(), 15, {}, 3).error().message(),
              HasSubstr("14 are free (n1 4 of 4, n2 2 of 4, n3 8 of 8)"));
  EXPECT_EQ(place_run(nodes(), 4, {}, 4).error().code(), Code::kBusy);
  EXPECT_EQ(place_run(nodes(), 4, {"n1", "n9"}, 0).error().code(), Code::kNotFound);
  EXPECT_EQ(place_run(nodes(), 4, {"n4"}, 0).error().code(), Code::kGone);
  EXPECT_EQ(place_run(nodes(), 4, {"n1", "n1"}, 0).error().code(), Code::kUsage);
  EXPECT_EQ(place_run(nodes(), 4, {"n1"}, 2).error().code(), Code::kUsage);
  EXPECT_EQ(place_run(nodes(), 1, {"n1", "n2"}, 0).error().code(), Code::kUsage);
  EXPECT_EQ(place_run({}, 1, {}, 0).error().code(), Code::kBusy);
}

TEST(PlaceRestart, EachStaysWhereItWas_IfThereIsRoom) {
  const std::vector<uint32_t> ranks{2, 2, 2};
  const std::vector<std::string> before{"n1", "n2", "n4"};
  EXPECT_THAT(*place_restart(nodes(), ranks, {}, before), ElementsAre("n1", "n2", "n3"));
  const std::vector<uint32_t> more{3, 3, 3};
  EXPECT_THAT(*place_restart(nodes(), more, {}, before), ElementsAre("n1", "n3", "n3"));
  const std::vector<uint32_t> large{9};
  EXPECT_THAT(place_restart(nodes(), large, {}, before).error().message(),
              HasSubstr("n3 has 8 of 8 slots free, 9 are needed"));
}

TEST(PlaceRestart, DealsOutToTheNodesThatAreNamed) {
  const std::vector<uint32_t> ranks{2, 2, 2};
  EXPECT_THAT(*place_restart(nodes(), ranks, {"n3", "n1", "n3"}, {}),
              ElementsAre("n3", "n1", "n3"));
  EXPECT_THAT(*place_restart(nodes(), ranks, {"n3"}, {}), ElementsAre("n3", "n3", "n3"));
  EXPECT_THAT(*place_restart(nodes(), ranks, {"n3", "n1"}, {}), ElementsAre("n3", "n3", "n1"));
  EXPECT_THAT(*place_restart(nodes(), ranks, {"n2", "n3"}, {}), ElementsAre("n2", "n3", "n3"))
      << "even blocks have no room on n2";
  EXPECT_THAT(*place_restart(nodes(), ranks, {"n3", "n2", "n1", "n4"}, {}),
              ElementsAre("n3", "n2", "n1"));
  EXPECT_EQ(place_restart(nodes(), ranks, {"n2"}, {}).error().code(), Code::kBusy);
  EXPECT_EQ(place_restart(nodes(), ranks, {"n4"}, {}).error().code(), Code::kGone);
}

}  // namespace
}  // namespace fermata::coord
