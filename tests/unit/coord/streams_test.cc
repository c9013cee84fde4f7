#include "coord/streams.h"

#include <gmock/gmock.h>

namespace fermata::coord {
namespace {

using ::testing::ElementsAre;

// A job that was restarted elsewhere: its agents name files after the nodes that they are.
TEST(OutputFiles, AreNamedByTheNodesThatPodsAreOnNow) {
  stored::Job job;
  job.set_job(7);
  job.set_start(1);
  job.set_output("/a/%j.%n.%N.out");
  for (const char* node : {"n4", "n5"}) {
    job.add_pods()->set_node(node);
    job.mutable_pods(job.pods_size() - 1)->set_known_as("n1");
  }
  EXPECT_THAT(output_files(job), ElementsAre("/a/7.0.n4.out", "/a/7.1.n5.out"));
  job.set_output("/a/%j.out");
  EXPECT_THAT(output_files(job), ElementsAre("/a/7.out"));
}

}  // namespace
}  // namespace fermata::coord
