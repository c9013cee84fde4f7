// Signals on their way to a job, while an answer is waited for and when the job ends.
#include "cli/job_signals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <future>
#include <vector>

namespace fermata::cli {
namespace {

using testing::ElementsAre;

/// What was sent, where the first one has its answer only when told, or cancelled.
class JobSignalsTest : public testing::Test {
 protected:
  void send(int signo) {
    sent_.push_back(signo);
    if (sent_.size() == 1) {
      begun_.set_value();
      answer_.get_future().wait();
    }
    if (sent_.size() == wanted_) done_.set_value();
  }

  std::vector<int> sent_;
  size_t wanted_ = 0;
  std::promise<void> begun_, answer_, done_;
};

TEST_F(JobSignalsTest, OfEachStandardSignal_OneWaits_AndEachRealTimeOne) {
  const int real_time = SIGRTMIN + 1;
  wanted_ = 5;
  JobSignals signals([this](int signo) { send(signo); }, [] {});
  signals.post(SIGUSR1);
  begun_.get_future().wait();  // that one does not wait any more
  for (int i = 0; i < 3; ++i) signals.post(SIGUSR1);
  for (int i = 0; i < 2; ++i) signals.post(real_time);
  signals.post(SIGTERM);
  answer_.set_value();
  done_.get_future().wait();
  EXPECT_THAT(sent_, ElementsAre(SIGUSR1, SIGUSR1, real_time, real_time, SIGTERM));
}

TEST_F(JobSignalsTest, AtItsEnd_TheCallUnderWayIsCancelled_AndNoOtherIsMade) {
  bool over = false;
  {
    const JobSignals* at_work = nullptr;
    JobSignals signals(
        [&](int signo) {
          send(signo);
          over = at_work->over();
        },
        [this] { answer_.set_value(); });
    at_work = &signals;
    signals.post(SIGUSR1);
    begun_.get_future().wait();
    signals.post(SIGTERM);
  }
  EXPECT_TRUE(over);
  EXPECT_THAT(sent_, ElementsAre(SIGUSR1));
}

}  // namespace
}  // namespace fermata::cli
