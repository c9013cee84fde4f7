#include "common/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <thread>
#include <vector>

#include "common/unique_fd.h"

namespace fermata {
namespace {

/// What can be read at once from a descriptor.
std::string read_some(int fd) {
  std::array<char, 4096> buffer{};
  const ssize_t count = read(fd, buffer.data(), buffer.size());
  return count > 0 ? std::string(buffer.data(), static_cast<size_t>(count)) : std::string();
}

TEST(Progress, Pipe_GetsOneLine_ForShortWork) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  Progress progress("writing pod-0.h5", 4096, in.get());
  for (int i = 0; i < 4; ++i) progress.advance(1024);
  progress.finish();
  progress.finish();
  const std::string text = read_some(out.get());
  EXPECT_TRUE(text.starts_with("writing pod-0.h5: 4 KiB in ")) << text;
  EXPECT_EQ(text.find('\n'), text.size() - 1) << text;
  EXPECT_EQ(text.find('\r'), std::string::npos) << text;
}

TEST(Progress, Threads_AreAllCounted) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  Progress progress("writing", 0, in.get());
  {
    std::vector<std::jthread> writers;
    for (int i = 0; i < 4; ++i) {
      writers.emplace_back([&progress] {
        for (int k = 0; k < 1024; ++k) progress.advance(256);
      });
    }
  }
  progress.finish();
  EXPECT_TRUE(read_some(out.get()).starts_with("writing: 1 MiB in "));
}

class Terminal : public testing::Test {
 protected:
  void SetUp() override {
    master_.reset(posix_openpt(O_RDWR | O_NOCTTY));
    ASSERT_TRUE(master_.valid());
    ASSERT_EQ(grantpt(master_.get()), 0);
    ASSERT_EQ(unlockpt(master_.get()), 0);
    slave_.reset(open(ptsname(master_.get()), O_RDWR | O_NOCTTY));
    ASSERT_TRUE(slave_.valid());
  }
  UniqueFd master_;
  UniqueFd slave_;
};

TEST_F(Terminal, Line_RenewsItself_AndIsReplacedAtTheEnd) {
  Progress progress("writing", 2000, slave_.get());
  std::this_thread::sleep_for(std::chrono::milliseconds(120));
  progress.advance(500);
  const std::string middle = read_some(master_.get());
  EXPECT_TRUE(middle.starts_with("\r\033[Kwriting: 25 % of 2 KiB, ")) << middle;
  EXPECT_EQ(middle.find('\n'), std::string::npos) << middle;
  progress.finish();
  EXPECT_TRUE(read_some(master_.get()).starts_with("\r\033[Kwriting: 500 B in "));
}

TEST_F(Terminal, UnfinishedLine_IsCleared) {
  {
    Progress progress("writing", 1000, slave_.get());
    std::this_thread::sleep_for(std::chrono::milliseconds(120));
    progress.advance(500);
    read_some(master_.get());
  }
  EXPECT_EQ(read_some(master_.get()), "\r\033[K");
}

}  // namespace
}  // namespace fermata
