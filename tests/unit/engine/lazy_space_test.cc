#include "node-agent/engine/lazy_space.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <shared_mutex>
#include <thread>

namespace fermata::engine {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPages = 256;
constexpr uint64_t kLength = kPages * kPage;

/// Between the program and us.
struct Told {
  std::atomic<int> descriptor{-1};  ///< its userfaultfd; below -1: it failed
  std::atomic<uint64_t> from{0};    ///< where its pages are at first
  std::atomic<bool> taken{false};   ///< we have the descriptor
  std::atomic<uint64_t> puts{0};    ///< pages that are there
  std::atomic<bool> stop{false};
  std::atomic<bool> stopped{false};  ///< moves no more
  std::atomic<bool> look{false};     ///< all are to be there
};

uint64_t word_of(uint64_t page) { return (page + 1) * 0x9e3779b97f4a7c15ULL; }

void wait_for(const std::atomic<bool>& flag) {
  while (!flag) ::usleep(100);
}

[[noreturn]] void fail(Told& told, int status) {
  told.descriptor = -status;
  ::_exit(status);
}

/// A program of one thread that moves its pages to and fro, after each that has come, then looks at
/// them. Never returns; ends by 0 if each page is its own.
[[noreturn]] void move_and_look(Told& told) {
  ::alarm(120);
  constexpr int kWritable = PROT_READ | PROT_WRITE;
  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
  void* room = ::mmap(nullptr, 2 * kLength, PROT_NONE, kPrivate | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) fail(told, 10);
  auto* here = static_cast<std::byte*>(room);
  std::byte* there = here + kLength;
  if (::mmap(here, kLength, kWritable, kPrivate | MAP_FIXED, -1, 0) != here) fail(told, 11);
  const auto descriptor = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (descriptor < 0) fail(told, 12);
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP;
  if (::ioctl(descriptor, UFFDIO_API, &api) != 0) fail(told, 13);
  uffdio_register request{};
  request.range = {reinterpret_cast<uint64_t>(here), kLength};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(descriptor, UFFDIO_REGISTER, &request) != 0) fail(told, 14);
  told.from = reinterpret_cast<uint64_t>(here);
  told.descriptor = descriptor;
  wait_for(told.taken);
  ::close(descriptor);
  while (!told.stop) {
    const uint64_t puts = told.puts;
    if (::mremap(here, kLength, kLength, MREMAP_MAYMOVE | MREMAP_FIXED, there) != there) {
      ::_exit(15);
    }
    std::swap(here, there);
    while (told.puts == puts && !told.stop) ::sched_yield();
  }
  told.stopped = true;
  wait_for(told.look);
  for (uint64_t page = 0; page < kPages; ++page) {
    uint64_t word = 0;
    std::memcpy(&word, here + page * kPage, sizeof word);
    if (word != word_of(page)) ::_exit(1);
  }
  ::_exit(0);
}

/// Until `done` says so; false: the program has ended before.
bool wait_while_it_lives(pid_t program, const std::function<bool()>& done) {
  while (!done()) {
    siginfo_t info{};
    const int seen =
        ::waitid(P_PID, static_cast<id_t>(program), &info, WEXITED | WNOHANG | WNOWAIT);
    if (seen != 0 || info.si_pid == program) return done();
    ::usleep(100);
  }
  return true;
}

/// Reads the program's events, as LazyFill does: never while pages are put.
class Listener {
 public:
  explicit Listener(LazySpace& space) : space_(space), thread_([this] { listen(); }) {}
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() {
    end_ = true;
    thread_.join();
  }
  /// To be held while pages are put.
  std::shared_lock<std::shared_mutex> still() {
    while (hearing_) ::usleep(10);
    return std::shared_lock(moving_);
  }
  uint64_t moves() const { return moves_; }

 private:
  void listen() {
    while (!end_) {
      pollfd wait{space_.descriptor(), POLLIN, 0};
      if (::poll(&wait, 1, 10) <= 0) continue;
      hearing_ = true;
      const std::unique_lock lock(moving_);
      hearing_ = false;
      uffd_msg message{};
      while (::read(space_.descriptor(), &message, sizeof message) == sizeof message) {
        if (message.event != UFFD_EVENT_REMAP) continue;
        const auto& moved = message.arg.remap;
        space_.missing().move(moved.from, moved.to, moved.len);
        ++moves_;
      }
    }
  }

  LazySpace& space_;
  std::shared_mutex moving_;
  std::atomic<bool> hearing_{false};  ///< it waits for moving_
  std::atomic<uint64_t> moves_{0};
  std::atomic<bool> end_{false};
  std::thread thread_;
};

/// Puts the image's pages one by one, whatever moves.
void put_all(LazySpace& space, Listener& listener, uint64_t from, Told& told) {
  std::array<std::byte, kPage> bytes{};
  for (uint64_t page = 0; page < kPages; ++page) {
    const uint64_t word = word_of(page);
    std::memcpy(bytes.data(), &word, sizeof word);
    for (;;) {
      {
        const auto lock = listener.still();
        const Result<Put> put = space.put(from + page * kPage, bytes);
        ASSERT_TRUE(put) << put.error().message();
        if (*put == Put::kDone) break;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(10));
    }
    ++told.puts;
  }
}

// A page that is put just as its map moves: the kernel has it that there is no map, although the
// move is under way. It was taken for a page that nobody wants, and read as zeros.
TEST(LazySpace, LosesNoPage_WhenItsMapIsMovedWhilePagesArePut) {
  void* shared =
      ::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  for (int round = 0; round < 16; ++round) {
    auto& told = *new (shared) Told;
    const pid_t program = ::fork();
    ASSERT_GE(program, 0);
    if (program == 0) move_and_look(told);
    ASSERT_TRUE(wait_while_it_lives(program, [&] { return told.descriptor != -1; }));
    const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, program, 0)));
    UniqueFd descriptor(
        static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), told.descriptor.load(), 0)));
    ASSERT_TRUE(descriptor) << "of the program: " << told.descriptor;
    {
      MissingPages missing;
      missing.add(told.from, told.from, kLength);
      LazySpace space(std::move(descriptor), program, std::move(missing));
      Listener listener(space);
      told.taken = true;
      ASSERT_TRUE(wait_while_it_lives(program, [&] { return listener.moves() > 0; }));
      put_all(space, listener, told.from, told);
      told.stop = true;
      ASSERT_TRUE(wait_while_it_lives(program, [&] { return told.stopped.load(); }));
      EXPECT_TRUE(space.missing().empty());
    }
    told.look = true;
    int status = -1;
    ASSERT_EQ(::waitpid(program, &status, 0), program);
    ASSERT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 0) << "1: a page was lost; round " << round;
  }
  ::munmap(shared, sizeof(Told));
}

}  // namespace
}  // namespace fermata::engine
