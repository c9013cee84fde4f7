// Files, pipes and the counters of anon_inode: each put into a state, captured, killed, rebuilt,
// looked at.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "pod_double.h"

namespace fermata::engine {
namespace {

class OpenFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "fermata-files-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string dir_;
};

std::string read_some(int fd, size_t most = 65536) {
  std::string buffer(most, '\0');
  const ssize_t n = ::read(fd, buffer.data(), buffer.size());
  buffer.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return buffer;
}

void write_all(int fd, const std::string& text) {
  if (::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) std::abort();
}

#define ASSERT_OK(expr)                                      \
  do {                                                       \
    const Status assert_status_ = (expr);                    \
    ASSERT_TRUE(assert_status_) << assert_status_.message(); \
  } while (0)

TEST_F(OpenFiles, RegularFile_KeepsOffsetAndFlags_AcrossRestart) {
  const std::string path = dir_ + "/data";
  PodDouble pod([&] {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    write_all(fd, "0123456789");
    ::lseek(fd, 4, SEEK_SET);
  });
  ASSERT_OK(pod.capture());
  pod.kill();
  std::ofstream(path, std::ios::app) << "written after the cut";
  ASSERT_OK(pod.rebuild());
  const UniqueFd fd = pod.fd(1, 3);
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_CUR), 4);
  EXPECT_EQ(read_some(fd.get()), "456789");  // cut back to the size at the cut
  EXPECT_NE(::fcntl(fd.get(), F_GETFL) & O_APPEND, 0);
}

TEST_F(OpenFiles, RegularFile_GrownWhileReadInTheMiddle_IsLeftAlone) {
  const std::string path = dir_ + "/data";
  PodDouble pod([&] {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT, 0600);
    write_all(fd, "0123456789");
    ::lseek(fd, 4, SEEK_SET);
  });
  ASSERT_OK(pod.capture());
  pod.kill();
  std::ofstream(path, std::ios::app) << "more";
  ASSERT_OK(pod.rebuild());
  EXPECT_EQ(read_some(pod.fd(1, 3).get()), "456789more");
}

TEST_F(OpenFiles, RegularFile_ShorterThanAtTheCut_IsRefusedWithBothSizes) {
  const std::string path = dir_ + "/data";
  PodDouble pod([&] { write_all(::open(path.c_str(), O_RDWR | O_CREAT, 0600), "0123456789"); });
  ASSERT_OK(pod.capture());
  pod.kill();
  ASSERT_EQ(::truncate(path.c_str(), 3), 0);
  const Status status = pod.rebuild();
  EXPECT_EQ(status.code(), Code::kConflict);
  EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("3 bytes"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("10"), std::string::npos) << status.message();
}

TEST_F(OpenFiles, RegularFile_Gone_IsNamed) {
  const std::string path = dir_ + "/data";
  PodDouble pod([&] { ::open(path.c_str(), O_RDWR | O_CREAT, 0600); });
  ASSERT_OK(pod.capture());
  pod.kill();
  std::filesystem::remove(path);
  const Status status = pod.rebuild();
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_NE(status.message().find("process 1, fd 3: '" + path), std::string::npos)
      << status.message();
}

TEST_F(OpenFiles, DeletedFile_KeepsItsBytes_SharedByTwoDescriptions) {
  const std::string path = dir_ + "/data";
  PodDouble pod([&] {
    write_all(::open(path.c_str(), O_RDWR | O_CREAT, 0600), "deleted bytes");
    ::lseek(::open(path.c_str(), O_RDONLY), 8, SEEK_SET);
    ::unlink(path.c_str());
  });
  ASSERT_OK(pod.cut_and_rebuild());
  EXPECT_EQ(read_some(pod.fd(1, 4).get()), "bytes");
  const UniqueFd writer = pod.fd(1, 3);
  EXPECT_EQ(::lseek(writer.get(), 0, SEEK_CUR), 13);
  write_all(writer.get(), "!");
  EXPECT_EQ(read_some(pod.fd(1, 4).get()), "!");
}

TEST_F(OpenFiles, DirectoryDeviceAndPathOnly_AreOpenedAgain) {
  const std::string path = dir_ + "/link";
  ASSERT_EQ(::symlink("/nowhere", path.c_str()), 0);
  PodDouble pod([&] {
    ::open(dir_.c_str(), O_RDONLY | O_DIRECTORY);
    ::open("/dev/zero", O_RDWR);
    ::open(path.c_str(), O_PATH | O_NOFOLLOW);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  struct stat status {};
  ASSERT_EQ(::fstat(pod.fd(1, 3).get(), &status), 0);
  EXPECT_TRUE(S_ISDIR(status.st_mode));
  EXPECT_EQ(read_some(pod.fd(1, 4).get(), 3), std::string(3, '\0'));
  ASSERT_EQ(::fstat(pod.fd(1, 5).get(), &status), 0);
  EXPECT_TRUE(S_ISLNK(status.st_mode));
}

TEST_F(OpenFiles, Pipe_KeepsUnreadBytesAndCapacity_AcrossRestart) {
  PodDouble pod([] {
    int ends[2];
    if (::pipe2(ends, O_NONBLOCK) != 0) std::abort();
    ::fcntl(ends[1], F_SETPIPE_SZ, 131072);
    write_all(ends[1], std::string(100000, 'x') + "end");
    ::fcntl(ends[0], F_SETFL, 0);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd reader = pod.fd(1, 3);
  const UniqueFd writer = pod.fd(1, 4);
  EXPECT_EQ(::fcntl(reader.get(), F_GETPIPE_SZ), 131072);
  EXPECT_EQ(::fcntl(reader.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(writer.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(read_some(reader.get(), 200000), std::string(100000, 'x') + "end");
  write_all(writer.get(), "later");
  EXPECT_EQ(read_some(reader.get()), "later");
}

TEST_F(OpenFiles, Pipe_CaptureConsumesNothing_WhenTheJobRunsOn) {
  PodDouble pod([] {
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    write_all(ends[1], "unread");
  });
  ASSERT_OK(pod.capture());
  pod.resume();
  EXPECT_EQ(read_some(pod.fd(1, 3).get()), "unread");
}

TEST_F(OpenFiles, Pipe_PacketsKeepTheirBoundaries) {
  PodDouble pod([] {
    int ends[2];
    if (::pipe2(ends, O_DIRECT) != 0) std::abort();
    write_all(ends[1], "one");
    write_all(ends[1], "three");
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd reader = pod.fd(1, 3);
  EXPECT_EQ(read_some(reader.get()), "one");
  EXPECT_EQ(read_some(reader.get()), "three");
  EXPECT_NE(::fcntl(pod.fd(1, 4).get(), F_GETFL) & O_DIRECT, 0);
}

TEST_F(OpenFiles, Pipe_WithoutWriters_IsReadToItsEnd) {
  PodDouble pod([] {
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    write_all(ends[1], "last words");
    ::close(ends[1]);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd reader = pod.fd(1, 3);
  EXPECT_EQ(read_some(reader.get()), "last words");
  pollfd state{reader.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&state, 1, 0), 1);
  EXPECT_EQ(state.revents, POLLHUP);
}

TEST_F(OpenFiles, Pipe_WithoutReaders_StillBreaks) {
  PodDouble pod([] {
    int ends[2];
    if (::pipe(ends) != 0) std::abort();
    ::close(ends[0]);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  pollfd state{pod.fd(1, 4).get(), POLLOUT, 0};
  const UniqueFd writer = pod.fd(1, 4);
  state.fd = writer.get();
  ASSERT_EQ(::poll(&state, 1, 0), 1);
  EXPECT_NE(state.revents & POLLERR, 0);
}

TEST_F(OpenFiles, Pipe_WhoseOtherEndIsOutside_IsRefusedByName) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const std::string path = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(ends[0]);
  PodDouble pod([&] { ::open(path.c_str(), O_RDONLY); });
  const Status status = pod.capture();
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_NE(status.message().find("fd 3 (pipe:["), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("outside the job"), std::string::npos) << status.message();
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(OpenFiles, Fifo_KeepsUnreadBytes_UnderItsName) {
  const std::string path = dir_ + "/fifo";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  PodDouble pod([&] {
    const int fd = ::open(path.c_str(), O_RDWR);
    ::open(path.c_str(), O_WRONLY);
    write_all(fd, "in the fifo");
  });
  ASSERT_OK(pod.cut_and_rebuild());
  EXPECT_EQ(read_some(pod.fd(1, 3).get()), "in the fifo");
  write_all(pod.fd(1, 4).get(), "more");
  EXPECT_EQ(read_some(pod.fd(1, 3).get()), "more");
}

TEST_F(OpenFiles, Eventfd_KeepsCountAndKind) {
  PodDouble pod([] {
    ::eventfd(5, 0);
    ::eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  uint64_t value = 0;
  const UniqueFd counter = pod.fd(1, 3);
  ASSERT_EQ(::read(counter.get(), &value, sizeof value), 8);
  EXPECT_EQ(value, 5U);
  const UniqueFd semaphore = pod.fd(1, 4);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(::read(semaphore.get(), &value, sizeof value), 8);
    EXPECT_EQ(value, 1U);
  }
  EXPECT_EQ(::read(semaphore.get(), &value, sizeof value), -1);
}

TEST_F(OpenFiles, Timerfd_KeepsTicksIntervalAndTimeLeft) {
  PodDouble pod([] {
    const int one_shot = ::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    const itimerspec in_100{{0, 0}, {100, 0}};
    ::timerfd_settime(one_shot, 0, &in_100, nullptr);
    const int periodic = ::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    const itimerspec every{{3, 0}, {0, 1}};
    ::timerfd_settime(periodic, 0, &every, nullptr);
    const int alarm = ::timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const itimerspec at{{0, 0}, {now.tv_sec + 1000, 0}};
    ::timerfd_settime(alarm, TFD_TIMER_ABSTIME, &at, nullptr);
    ::usleep(20000);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  itimerspec value{};
  uint64_t ticks = 0;
  ASSERT_EQ(::timerfd_gettime(pod.fd(1, 3).get(), &value), 0);
  EXPECT_GT(value.it_value.tv_sec, 90);
  EXPECT_LT(value.it_value.tv_sec, 100);
  EXPECT_EQ(::read(pod.fd(1, 3).get(), &ticks, sizeof ticks), -1);
  ASSERT_EQ(::timerfd_gettime(pod.fd(1, 4).get(), &value), 0);
  EXPECT_EQ(value.it_interval.tv_sec, 3);
  EXPECT_LE(value.it_value.tv_sec, 3);
  // The one that was unread; on a slow machine the next may have come.
  ASSERT_EQ(::read(pod.fd(1, 4).get(), &ticks, sizeof ticks), 8);
  EXPECT_GE(ticks, 1U);
  EXPECT_LE(ticks, 3U);
  ASSERT_EQ(::timerfd_gettime(pod.fd(1, 5).get(), &value), 0);
  EXPECT_GT(value.it_value.tv_sec, 990);
}

TEST_F(OpenFiles, Signalfd_KeepsItsMask) {
  PodDouble pod([] {
    sigset_t mask;
    ::sigemptyset(&mask);
    ::sigaddset(&mask, SIGUSR1);
    ::sigaddset(&mask, SIGTERM);
    ::signalfd(-1, &mask, SFD_NONBLOCK);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd fd = pod.fd(1, 3);
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(fd.get()));
  std::string line;
  while (std::getline(info, line) && !line.starts_with("sigmask:")) {
  }
  EXPECT_EQ(line, "sigmask:\t0000000000004200");  // SIGUSR1 and SIGTERM
  EXPECT_NE(::fcntl(fd.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(OpenFiles, Epoll_WatchesTheSameFilesAgain) {
  PodDouble pod([] {
    const int epoll = ::epoll_create1(0);
    const int first = ::eventfd(0, 0);
    const int second = ::eventfd(0, EFD_NONBLOCK);
    const int outer = ::epoll_create1(0);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = 0x1122334455667788;
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, first, &event);
    event.events = EPOLLIN | EPOLLONESHOT | EPOLLET;
    event.data.u64 = 2;
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, second, &event);
    event.events = EPOLLIN;
    event.data.u64 = 3;
    ::epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &event);
    // The one-shot watch fires and waits to be armed again.
    const uint64_t one = 1;
    if (::write(second, &one, sizeof one) != 8) std::abort();
    ::epoll_wait(epoll, &event, 1, 0);
  });
  ASSERT_OK(pod.cut_and_rebuild());
  const UniqueFd epoll = pod.fd(1, 3);
  const UniqueFd outer = pod.fd(1, 6);
  std::array<epoll_event, 4> events{};
  EXPECT_EQ(::epoll_wait(epoll.get(), events.data(), 4, 0), 0);
  const uint64_t one = 1;
  ASSERT_EQ(::write(pod.fd(1, 4).get(), &one, sizeof one), 8);
  ASSERT_EQ(::epoll_wait(outer.get(), events.data(), 4, 0), 1);
  EXPECT_EQ(events[0].data.u64, 3U);
  ASSERT_EQ(::epoll_wait(epoll.get(), events.data(), 4, 0), 1);
  EXPECT_EQ(events[0].data.u64, 0x1122334455667788U);
  EXPECT_EQ(events[0].events, static_cast<uint32_t>(EPOLLIN));
}

TEST_F(OpenFiles, Epoll_WatchingAFileClosedUnderItsNumber_IsRefused) {
  PodDouble pod([] {
    const int epoll = ::epoll_create1(0);
    const int event = ::eventfd(0, 0);
    epoll_event watch{};
    watch.events = EPOLLIN;
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, event, &watch);
    ::dup2(event, 40);
    ::close(event);
  });
  const Status status = pod.capture();
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_NE(status.message().find("was fd 4"), std::string::npos) << status.message();
}

TEST_F(OpenFiles, SharedDescription_StaysShared_BetweenProcesses) {
  const std::string path = dir_ + "/data";
  PodDouble pod([&] {
    write_all(::open(path.c_str(), O_RDWR | O_CREAT, 0600), "0123456789");
    ::lseek(3, 0, SEEK_SET);
    if (::fork() == 0) {
      for (;;) ::pause();
    }
  });
  ASSERT_EQ(pod.pids().size(), 2U);
  ASSERT_OK(pod.cut_and_rebuild());
  EXPECT_EQ(read_some(pod.fd(1, 3).get(), 4), "0123");
  EXPECT_EQ(read_some(pod.fd(2, 3).get(), 4), "4567");
}

TEST_F(OpenFiles, Terminal_IsRefusedByName) {
  PodDouble pod([] { ::open("/dev/ptmx", O_RDWR | O_NOCTTY); });
  const Status status = pod.capture();
  EXPECT_EQ(status.code(), Code::kCannotHold);
  EXPECT_NE(status.message().find("fd 3 (/dev/"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("terminal"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace fermata::engine
