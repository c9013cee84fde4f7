// What is said of a checkpoint whose coordinator was lost meanwhile.
#include "cli/checkpoint_verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fermata::cli {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

LostCheckpoint checkpoint(bool end_job, NewestSet now) {
  return {{Code::kGone, "the stream was lost"}, end_job, "/sets", Crid{4}, now, true};
}

TEST(CheckpointVerdict, ANewSet_IsTheOneThatWasAskedFor) {
  const node_agent::ControlReply reply = verdict_of(checkpoint(false, {Crid{5}, false}));
  EXPECT_TRUE(reply.status);
  EXPECT_THAT(reply.body, HasSubstr("checkpoint 5 committed"));
}

TEST(CheckpointVerdict, OneThatWasToEndTheJob_IsASetThatDid) {
  EXPECT_TRUE(verdict_of(checkpoint(true, {Crid{5}, true})).status);
  const node_agent::ControlReply other = verdict_of(checkpoint(true, {Crid{5}, false}));
  EXPECT_EQ(other.status.code(), Code::kGone);
  EXPECT_THAT(other.status.message(), HasSubstr("the job was not ended with it"));
  EXPECT_THAT(other.body, IsEmpty());
}

TEST(CheckpointVerdict, WithoutANewSet_NothingWasCommitted) {
  const Status back = verdict_of(checkpoint(false, {Crid{4}, false})).status;
  EXPECT_EQ(back.code(), Code::kGone);
  EXPECT_THAT(back.message(), HasSubstr("nothing was committed"));
  LostCheckpoint away = checkpoint(false, {});
  away.back = false;
  EXPECT_THAT(verdict_of(away).status.message(), HasSubstr("`fermata ls --checkpoint-dir /sets`"));
}

}  // namespace
}  // namespace fermata::cli
