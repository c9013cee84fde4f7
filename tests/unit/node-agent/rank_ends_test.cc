#include "node-agent/rank_ends.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <fstream>

#include "tests/support/scratch_folder.h"

namespace fermata::node_agent {
namespace {

TEST(RankEnds, AreReadAsTheyWereWritten_AlsoByTwoAgents) {
  const ScratchFolder folder;
  const std::filesystem::path file = folder.path() / "7.0.0.0.ends";
  {
    const auto ends = RankEnds::open(file, {4, 5});
    ASSERT_TRUE(ends) << ends.error().message();
    (*ends)->ended(4, W_EXITCODE(3, 0));
  }
  const auto again = RankEnds::open(file, {4, 5});
  ASSERT_TRUE(again) << again.error().message();
  (*again)->ended(5, W_EXITCODE(0, SIGSEGV));
  (*again)->signalled(SIGTERM);
  const KnownEnds known = read_rank_ends(file);
  EXPECT_EQ(known.statuses, (std::map<uint32_t, int>{{4, W_EXITCODE(3, 0)}, {5, SIGSEGV}}));
  EXPECT_EQ(known.signal, SIGTERM);
  const std::array<uint32_t, 2> both{4, 5};
  EXPECT_EQ(known.status_of(both), W_EXITCODE(128 + SIGSEGV, 0));
  const std::array<uint32_t, 2> more{4, 6};
  EXPECT_EQ(known.status_of(more), std::nullopt);
}

// podinit's word lies in a folder of the user's.
TEST(RankEnds, AreWrittenOnce_AndOfThePodsRanksAlone) {
  const ScratchFolder folder;
  const std::filesystem::path file = folder.path() / "ends";
  const auto ends = RankEnds::open(file, {4});
  ASSERT_TRUE(ends) << ends.error().message();
  for (int i = 0; i < 100; ++i) {
    (*ends)->ended(4, W_EXITCODE(3, 0));
    (*ends)->ended(4, W_EXITCODE(0, 0));
    (*ends)->ended(77, W_EXITCODE(0, 0));
    (*ends)->signalled(SIGTERM);
  }
  EXPECT_EQ(read_rank_ends(file).statuses, (std::map<uint32_t, int>{{4, W_EXITCODE(3, 0)}}));
  EXPECT_LT(std::filesystem::file_size(file), 40U);
}

TEST(RankEnds, OfNoFile_AndOfOneThatOthersCanWrite_AreNotKnown) {
  const ScratchFolder folder;
  const std::filesystem::path file = folder.path() / "ends";
  EXPECT_TRUE(read_rank_ends(file).statuses.empty());
  std::ofstream(file) << "rank 0 0\n";
  EXPECT_EQ(read_rank_ends(file).statuses.size(), 1U);
  std::filesystem::permissions(file, std::filesystem::perms(0666));
  EXPECT_TRUE(read_rank_ends(file).statuses.empty());
}

}  // namespace
}  // namespace fermata::node_agent
