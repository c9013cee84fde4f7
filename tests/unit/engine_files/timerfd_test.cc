// Reading a timer that goes on meanwhile.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <ctime>

#include "node-agent/engine/file_kinds.h"
#include "node-agent/engine/file_support.h"

namespace fermata::engine {
namespace {

/// For a kind that asks nothing.
class NobodyToAsk : public CaptureContext {
 public:
  Result<Remote*> remote(int) override { return failure(Code::kInternal, "not asked"); }
  int vpid_of(pid_t) const override { return 0; }
  uint32_t file_at(int, int) const override { return 0; }
  Result<uint32_t> shared_object(const FileProbe&) override {
    return failure(Code::kInternal, "not asked");
  }
  OutsideConnections& outside() override { std::abort(); }
};

class Timerfd : public ::testing::Test {
 protected:
  void set(const itimerspec& when) {
    probe_.dup.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    ASSERT_TRUE(probe_.dup);
    ASSERT_EQ(::timerfd_settime(probe_.dup.get(), 0, &when, nullptr), 0);
    const Result<std::string> info = own_fdinfo(probe_.dup.get());
    ASSERT_TRUE(info);
    probe_.fdinfo = *info;
  }
  image::TimerFile captured() {
    const auto kind = make_timerfd_kind();
    image::PodObjects objects;
    capture_by(*kind, objects);
    finish(*kind, objects);
    return objects.files(0).timer();
  }
  void capture_by(FileKind& kind, image::PodObjects& objects) {
    image::File& file = *objects.add_files();
    file.set_id(static_cast<uint32_t>(objects.files_size()));
    const Status status = kind.capture(probe_, nobody_, file);
    EXPECT_TRUE(status) << status.message();
  }
  void finish(FileKind& kind, image::PodObjects& objects) {
    const Status status = kind.finish_capture(nobody_, objects);
    EXPECT_TRUE(status) << status.message();
  }

  NobodyToAsk nobody_;
  FileProbe probe_;
};

// It was taken for one that is not set, and ticked no more after the restart (state timerfd in an
// emulated machine).
TEST_F(Timerfd, OneThatIsDue_IsSet) {
  set({{0, 100'000}, {0, 100'000}});
  for (int look = 0; look < 40'000; ++look) {
    const image::TimerFile timer = captured();
    ASSERT_GT(timer.value_ns(), 0) << "look " << look;
    ASSERT_LE(timer.value_ns(), 100'000) << "look " << look;
  }
}

TEST_F(Timerfd, OneShotThatIsDue_HasItsTick) {
  for (int look = 0; look < 2'000; ++look) {
    set({{0, 0}, {0, 20'000}});
    const image::TimerFile timer = captured();
    ASSERT_TRUE(timer.value_ns() > 0 || timer.ticks() == 1) << "look " << look;
  }
}

TEST_F(Timerfd, OneThatIsNotSet_StaysSo) {
  set({});
  const image::TimerFile timer = captured();
  EXPECT_EQ(timer.value_ns(), 0);
  EXPECT_EQ(timer.ticks(), 0U);
  EXPECT_EQ(timer.interval_ns(), 0);
}

// One after the other they took 2 ms each, and the job stood still meanwhile.
TEST_F(Timerfd, ManyThatAreNotSet_AreWaitedForTogether) {
  constexpr int kTimers = 450;
  const auto kind = make_timerfd_kind();
  image::PodObjects objects;
  set({});
  const auto begin = std::chrono::steady_clock::now();
  for (int timer = 0; timer < kTimers; ++timer) capture_by(*kind, objects);
  finish(*kind, objects);
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(took, std::chrono::milliseconds(2 * kTimers)) << "as long as one after the other";
  for (const image::File& file : objects.files()) {
    ASSERT_TRUE(file.has_timer());
    EXPECT_EQ(file.timer().value_ns(), 0);
  }
}

}  // namespace
}  // namespace fermata::engine
