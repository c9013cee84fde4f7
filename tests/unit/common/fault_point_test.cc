// The macro is on in this file whatever the preset.
#ifndef FERMATA_FAULT_POINTS
#define FERMATA_FAULT_POINTS 1
#endif
#include "common/fault_point.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>

namespace fermata {
namespace {

Status returns_status() {
  FAULT_POINT("test.status");
  return Status::ok();
}

Result<std::string> returns_result() {
  FAULT_POINT("test.result");
  return "done";
}

class FaultPoint : public testing::Test {
 protected:
  void TearDown() override { unsetenv("FERMATA_FAULT"); }
  static void ask(const char* what) { setenv("FERMATA_FAULT", what, 1); }
};

TEST_F(FaultPoint, Point_DoesNothing_UnlessNamed) {
  EXPECT_TRUE(returns_status().is_ok());
  ask("other:error,test.stat:error,test.status.more:error");
  EXPECT_TRUE(returns_status().is_ok());
  EXPECT_EQ(returns_result().value(), "done");
}

TEST_F(FaultPoint, Error_IsReturned_FromEitherKindOfFunction) {
  ask("other:kill,test.status:error,test.result:error");
  EXPECT_EQ(returns_status().message(), "fault point test.status");
  EXPECT_EQ(returns_result().error().message(), "fault point test.result");
}

TEST_F(FaultPoint, Kill_EndsTheProcess) {
  ask("test.status:kill");
  EXPECT_EXIT((void)returns_status(), testing::KilledBySignal(SIGKILL), "");
}

TEST_F(FaultPoint, Sleep_DelaysAndGoesOn) {
  ask("test.status:sleep=30");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(returns_status().is_ok());
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(30));
}

TEST_F(FaultPoint, MisspeltAction_Fails) {
  for (const char* list : {"test.status:sleep=", "test.status:sleep=1s", "test.status:explode"}) {
    ask(list);
    EXPECT_EQ(returns_status().code(), Code::kUsage) << list;
  }
}

}  // namespace
}  // namespace fermata
