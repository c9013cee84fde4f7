#include "common/stream_name.h"

#include <gtest/gtest.h>

namespace fermata {
namespace {

const PodId kPod{{17, 2}, 3, 1};

TEST(StreamName, IsFilledIn) {
  EXPECT_EQ(expand_stream_name("/a/%j.%s.%n.%N.out", kPod, "n7"), "/a/17.2.3.n7.out");
  EXPECT_EQ(expand_stream_name("/a/100%%/%x/%", kPod, "n7"), "/a/100%/%x/%");
}

}  // namespace
}  // namespace fermata
