#include "coord/exchange_routes.h"

#include <gmock/gmock.h>

#include <map>

namespace fermata::coord {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<TreeNode> nodes(size_t count) {
  std::vector<TreeNode> all;
  for (uint32_t i = 0; i < count; ++i) {
    all.push_back({"n" + std::to_string(i), "relay" + std::to_string(i), {i}});
  }
  return all;
}

TEST(ExchangeRoutesTest, AHandfulOfNodes_IsAStar) {
  EXPECT_THAT(exchange_routes({7, 1}, 2, nodes(kTreeArity)), IsEmpty());
}

TEST(ExchangeRoutesTest, EachNodeKnowsWhoIsAboveAndAllWhoAreBelow) {
  const auto routes = exchange_routes({7, 1}, 2, nodes(7), 2);
  ASSERT_EQ(routes.size(), 7U);
  EXPECT_EQ(routes[6].node, "n6");
  EXPECT_EQ(routes[6].message.pod().pod(), 6U);
  EXPECT_EQ(routes[6].message.pod().start(), 2U);
  EXPECT_EQ(routes[0].message.route().parent(), "");
  EXPECT_EQ(routes[3].message.route().parent(), "relay0");
  EXPECT_EQ(routes[5].message.route().parent(), "relay1");
  EXPECT_EQ(routes[6].message.route().parent(), "relay2");
  EXPECT_THAT(routes[0].message.route().below(), ElementsAre(0, 2, 3, 6));
  EXPECT_THAT(routes[2].message.route().below(), ElementsAre(2, 6));
  EXPECT_THAT(routes[6].message.route().below(), ElementsAre(6));
}

TEST(ExchangeRoutesTest, BelowANodeWithoutARelay_IsNobody) {
  std::vector<TreeNode> all = nodes(5);
  all[0].relay.clear();
  const auto routes = exchange_routes({7, 1}, 0, all, 2);
  EXPECT_EQ(routes[2].message.route().parent(), "");
  EXPECT_THAT(routes[0].message.route().below(), ElementsAre(0));
  EXPECT_EQ(routes[4].message.route().parent(), "relay1");
}

TEST(ExchangeRoutesTest, PodsOfANode_GoTogether) {
  std::vector<TreeNode> all = nodes(3);
  all[2].pods = {5, 2};
  const auto routes = exchange_routes({7, 1}, 0, all, 2);
  EXPECT_EQ(routes[2].message.pod().pod(), 2U);
  EXPECT_THAT(routes[0].message.route().below(), ElementsAre(0, 2, 5));
}

TEST(ExchangeRoutesTest, NobodySpeaksToMoreThanTheArity_WithTenThousandNodes) {
  std::map<std::string, size_t> children;
  for (const auto& route : exchange_routes({7, 1}, 0, nodes(10'000))) {
    ++children[route.message.route().parent()];
  }
  for (const auto& [parent, count] : children) EXPECT_LE(count, kTreeArity) << parent;
}

}  // namespace
}  // namespace fermata::coord
