// AIO contexts: drained and put back under a program that runs on, and made anew in another
// process.
#include "node-agent/engine/aio.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "pod_double.h"

namespace fermata::engine {
namespace {

#define ASSERT_OK(expr)                                      \
  do {                                                       \
    const Status assert_status_ = (expr);                    \
    ASSERT_TRUE(assert_status_) << assert_status_.message(); \
  } while (0)

struct Shared {
  std::atomic<int> ready;
  std::atomic<int> stop;
  std::atomic<long> rounds;
  std::atomic<long> wrong;
  std::atomic<int> done;
};

class Aio : public ::testing::Test {
 protected:
  void SetUp() override {
    shared_ = static_cast<Shared*>(
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    // On a real file system, so that O_DIRECT reads are in flight for a while.
    std::string pattern = "./fermata-aio-XXXXXX";
    const int fd = ::mkstemp(pattern.data());
    path_ = std::filesystem::absolute(pattern);
    std::vector<uint64_t> words(kBlocks * kBlock / 8);
    for (size_t i = 0; i < words.size(); ++i) words[i] = i;
    ASSERT_EQ(::write(fd, words.data(), words.size() * 8), static_cast<ssize_t>(words.size() * 8));
    ::fsync(fd);
    ::close(fd);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  static constexpr size_t kBlock = 64 << 10;
  static constexpr size_t kBlocks = 24;

  std::vector<AioRing> rings(pid_t pid) {
    std::vector<AioRing> found;
    std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
    for (std::string line; std::getline(maps, line);) {
      if (line.find("/[aio]") == std::string::npos) continue;
      AioRing ring;
      uint64_t end = 0;
      std::sscanf(line.c_str(), "%lx-%lx", &ring.start, &end);
      ring.length = end - ring.start;
      found.push_back(ring);
    }
    return found;
  }

  // Keeps kBlocks reads in flight, checks each completion, until told to stop.
  void read_for_ever() {
    aio_context_t context = 0;
    if (::syscall(SYS_io_setup, 60, &context) != 0) std::abort();
    const int fd = ::open(path_.c_str(), O_RDONLY | O_DIRECT);
    auto* target = static_cast<char*>(std::aligned_alloc(4096, kBlocks * kBlock));
    std::array<iocb, kBlocks> blocks{};
    std::array<int, kBlocks> in_flight{};
    long flying = 0;
    const auto start = [&](size_t i) {
      std::fill_n(target + i * kBlock, kBlock, '\xee');
      blocks[i] = {};
      blocks[i].aio_lio_opcode = IOCB_CMD_PREAD;
      blocks[i].aio_fildes = static_cast<uint32_t>(fd);
      blocks[i].aio_buf = reinterpret_cast<uint64_t>(target + i * kBlock);
      blocks[i].aio_nbytes = kBlock;
      blocks[i].aio_offset = static_cast<int64_t>(i * kBlock);
      blocks[i].aio_data = 7000 + i;
      iocb* one = &blocks[i];
      if (::syscall(SYS_io_submit, context, 1, &one) != 1) ++shared_->wrong;
      ++in_flight[i];
      ++flying;
    };
    for (size_t i = 0; i < kBlocks; ++i) start(i);
    while (flying > 0) {
      std::array<io_event, 5> events{};
      const long n = ::syscall(SYS_io_getevents, context, 1, events.size(), events.data(), nullptr);
      if (n < 0 && errno == EINTR) continue;  // the freezer hides it, this double does not
      if (n < 1) ++shared_->wrong;
      for (long k = 0; k < n; ++k) {
        const size_t i = events[static_cast<size_t>(k)].data - 7000;
        if (i >= kBlocks || --in_flight[i] != 0 ||
            events[static_cast<size_t>(k)].res != static_cast<long>(kBlock)) {
          ++shared_->wrong;
          continue;
        }
        --flying;
        const auto* words = reinterpret_cast<const uint64_t*>(target + i * kBlock);
        for (size_t w = 0; w < kBlock / 8; ++w) {
          if (words[w] != i * kBlock / 8 + w) {
            ++shared_->wrong;
            break;
          }
        }
        if (shared_->stop == 0) start(i);
      }
      shared_->rounds += n;
      shared_->ready = 1;
    }
    shared_->done = 1;
  }

  Shared* shared_ = nullptr;
  std::string path_;
};

TEST_F(Aio, RunningOn_GetsEveryCompletionOnce) {
  PodDouble pod([this] {
    if (::fork() == 0) {
      read_for_ever();
      for (;;) ::pause();
    }
    while (shared_->ready == 0) ::usleep(100);
  });
  size_t events = 0;
  for (int cut = 0; cut < 40; ++cut) {
    ASSERT_OK(pod.stop());
    const std::vector<AioRing> found = rings(pod.pids()[1]);
    ASSERT_EQ(found.size(), 1U);
    image::Process record;
    ASSERT_OK(drain_and_capture_aio(pod.stopped_process(2), found, record));
    ASSERT_EQ(record.aio_contexts_size(), 1);
    events += static_cast<size_t>(record.aio_contexts(0).events_size());
    EXPECT_LE(record.aio_contexts(0).events_size(), static_cast<int>(kBlocks));
    pod.resume();
    const long before = shared_->rounds;
    for (int i = 0; i < 3000 && shared_->rounds < before + 50; ++i) ::usleep(1000);
    ASSERT_GE(shared_->rounds, before + 50) << "no completions any more after cut " << cut;
    ASSERT_EQ(shared_->wrong, 0) << "after cut " << cut;
  }
  EXPECT_GT(events, 0U);
  shared_->stop = 1;
  for (int i = 0; i < 3000 && shared_->done == 0; ++i) ::usleep(1000);
  EXPECT_EQ(shared_->done, 1);
  EXPECT_EQ(shared_->wrong, 0);
  // Nothing of ours is left: descriptor 3 is the file.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(
                              "/proc/" + std::to_string(pod.pids()[1]) + "/fd"),
                          std::filesystem::directory_iterator{}),
            4);
}

TEST_F(Aio, PollRequest_IsNotSeenCancelled) {
  PodDouble pod([this] {
    if (::fork() == 0) {
      aio_context_t context = 0;
      if (::syscall(SYS_io_setup, 10, &context) != 0) std::abort();
      const int event = ::eventfd(0, 0);
      iocb block{};
      block.aio_lio_opcode = IOCB_CMD_POLL;
      block.aio_fildes = static_cast<uint32_t>(event);
      block.aio_buf = POLLIN;
      block.aio_data = 77;
      iocb* one = &block;
      if (::syscall(SYS_io_submit, context, 1, &one) != 1) std::abort();
      shared_->ready = 1;
      while (shared_->stop == 0) ::usleep(100);
      io_event got{};
      timespec none{};
      if (::syscall(SYS_io_getevents, context, 1, 1, &got, &none) != 0) ++shared_->wrong;
      const uint64_t value = 1;
      if (::write(event, &value, sizeof value) != 8) ++shared_->wrong;
      if (::syscall(SYS_io_getevents, context, 1, 1, &got, nullptr) != 1 || got.data != 77 ||
          got.res != POLLIN) {
        ++shared_->wrong;
      }
      shared_->done = 1;
      for (;;) ::pause();
    }
    while (shared_->ready == 0) ::usleep(100);
  });
  ASSERT_OK(pod.stop());
  image::Process record;
  ASSERT_OK(drain_and_capture_aio(pod.stopped_process(2), rings(pod.pids()[1]), record));
  EXPECT_EQ(record.aio_contexts(0).resubmit_size(), 1);
  EXPECT_EQ(record.aio_contexts(0).events_size(), 0);
  pod.resume();
  shared_->stop = 1;
  for (int i = 0; i < 3000 && shared_->done == 0; ++i) ::usleep(1000);
  EXPECT_EQ(shared_->done, 1);
  EXPECT_EQ(shared_->wrong, 0);
}

TEST_F(Aio, RebuiltContext_HasItsAddressAndEvents) {
  PodDouble pod([] {});
  ASSERT_OK(pod.capture());
  ASSERT_OK(pod.rebuild());
  image::AioContext context;
  context.set_address(0x300000000000);
  context.set_length(4096);
  context.set_slots(127);
  context.set_head(120);
  for (uint64_t i = 0; i < 10; ++i) {
    image::AioEvent& event = *context.add_events();
    event.set_data(100 + i);
    event.set_object(0x1000 + i);
    event.set_result(-static_cast<int64_t>(i));
  }
  Remote& process = pod.rebuilt_process(1);
  ASSERT_OK(rebuild_aio(process, context));
  const auto got = process.call("io_getevents", SYS_io_getevents,
                                {context.address(), 0, 20, process.argument_address(), 0});
  ASSERT_TRUE(got) << got.error().message();
  ASSERT_EQ(*got, 10);
  std::array<io_event, 10> events{};
  ASSERT_OK(process.get(process.argument_address(), events));
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].data, 100 + i);
    EXPECT_EQ(events[i].res, -static_cast<int64_t>(i));
  }
  context.set_head(127);
  EXPECT_EQ(rebuild_aio(process, context).code(), Code::kDamaged);
}

}  // namespace
}  // namespace fermata::engine
