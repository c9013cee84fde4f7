#include "tests/unit/engine/engine_fixture.h"

namespace fermata::engine {
namespace {

// A shell that waits for a file and then says what it knew before.
constexpr const char* kWaitingShell =
    "x=$$; : > ready; while ! [ -e go ]; do sleep 0.05; done; echo pid $x $$ > result; exit 7";

TEST_F(EngineTest, Pod_RunsOnUnharmed_AfterHold) {
  start(kWaitingShell);
  wait_for_file("ready");
  for (int i = 0; i < 5; ++i) {
    const Result<KeptPod> kept = hold(/*kill=*/false);
    ASSERT_TRUE(kept) << kept.error().message();
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 7);
  EXPECT_EQ(contents("result").substr(0, 4), "pid ");
}

TEST_F(EngineTest, Pod_GoesOnWhereItWas_AfterKillAndRestartTwice) {
  start(kWaitingShell);
  wait_for_file("ready");
  for (int i = 0; i < 2; ++i) {
    const Result<KeptPod> kept = hold(/*kill=*/true);
    ASSERT_TRUE(kept) << kept.error().message();
    const Status restarted = restart(*kept);
    ASSERT_TRUE(restarted) << restarted.message();
  }
  write("go", "");
  EXPECT_EQ(wait_end(), 7);
  EXPECT_EQ(contents("result").substr(0, 4), "pid ");
}

}  // namespace
}  // namespace fermata::engine
