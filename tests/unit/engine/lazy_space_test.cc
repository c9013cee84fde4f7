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
#include <optional>
#include <shared_mutex>
#include <thread>

namespace fermata::engine {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPages = 256;
constexpr uint64_t kLength = kPages * kPage;

/// Between the program and us.
struct Told {
  std::atomic<int> descriptor{-1};   ///< its userfaultfd; below -1: it failed
  std::atomic<uint64_t> from{0};     ///< where its pages are at first
  std::atomic<bool> taken{false};    ///< we have the descriptor
  std::atomic<uint64_t> puts{0};     ///< pages that are there
  std::atomic<int> moved{0};         ///< maps that stayed
  std::atomic<bool> stop{false};     ///< all were put: it may end
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

/// Has the pages of [here, here + length) be missing, and us have the descriptor for them.
void give_descriptor(Told& told, std::byte* here, uint64_t length) {
  const auto descriptor = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (descriptor < 0) fail(told, 12);
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP;
  if (::ioctl(descriptor, UFFDIO_API, &api) != 0) fail(told, 13);
  uffdio_register request{};
  request.range = {reinterpret_cast<uint64_t>(here), length};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(descriptor, UFFDIO_REGISTER, &request) != 0) fail(told, 14);
  told.from = reinterpret_cast<uint64_t>(here);
  told.descriptor = descriptor;
  wait_for(told.taken);
  ::close(descriptor);
}

/// Ends by `status` unless a page is that of the image, or zeros where it has none.
void must_be(const std::byte* page, std::optional<uint64_t> then, int status) {
  uint64_t word = 0;
  std::memcpy(&word, page, sizeof word);
  if (word != (then ? word_of(*then) : 0)) ::_exit(status);
}

/// A program that moves half of a map to where another's pages begin, with MREMAP_FIXED, the rest
/// of which stay; moves a map that stays (MREMAP_DONTUNMAP) and unmaps that in two steps; then has
/// another one that stays. All are missing meanwhile. Never returns; ends by 0 if all is in place.
[[noreturn]] void cut_and_look(Told& told) {
  ::alarm(120);
  constexpr int kWritable = PROT_READ | PROT_WRITE;
  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
  constexpr uint64_t kOne = 8 * kPage;
  constexpr uint64_t kRoom = 64 * kPage;
  void* room = ::mmap(nullptr, 2 * kRoom, PROT_NONE, kPrivate | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) fail(told, 10);
  auto* here = static_cast<std::byte*>(room);
  std::byte* const away = here + kRoom;
  if (::mmap(here, kRoom, kWritable, kPrivate | MAP_FIXED, -1, 0) != here) fail(told, 11);
  give_descriptor(told, here, kRoom);
  // Pages 0 to 3 to where 16 to 19 were; 20 to 23 stay.
  std::byte* const onto = here + 2 * kOne;
  if (::mremap(here, kOne, kOne / 2, MREMAP_MAYMOVE | MREMAP_FIXED, onto) != onto) ::_exit(15);
  // 32 to 39, and what stays is unmapped, its second half first.
  constexpr int kStays = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
  std::byte* const split = here + 4 * kOne;
  if (::mremap(split, kOne, kOne, kStays, away) != away) ::_exit(16);
  told.moved = 1;
  wait_for(told.look);  // else an old kernel tells the same as of a map that was cut as it moved
  ::munmap(split + kOne / 2, kOne / 2);
  ::munmap(split, kOne / 2);
  // 48 to 55.
  std::byte* const stays = here + 6 * kOne;
  if (::mremap(stays, kOne, kOne, kStays, away + kOne) != away + kOne) ::_exit(17);
  told.moved = 2;
  for (uint64_t page = 0; page < 8; ++page) {
    must_be(onto + page * kPage, page < 4 ? page : 16 + page, 20);
    must_be(away + page * kPage, 32 + page, 21);
    must_be(away + kOne + page * kPage, 48 + page, 22);
    must_be(stays + page * kPage, std::nullopt, 23);
    must_be(here + kOne + page * kPage, 8 + page, 24);
  }
  wait_for(told.stop);  // of a program that has ended, pages stay missing
  ::_exit(0);
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
  give_descriptor(told, here, kLength);
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

/// Reads the program's events, as LazyFill does: never while pages are put. Who waits for a page
/// that is not missing gets zeros.
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
  bool unclear() {
    const auto lock = still();
    return space_.unclear();
  }
  uint64_t times_heard() const { return times_heard_; }

 private:
  void listen() {
    while (!end_) {
      pollfd wait{space_.descriptor(), POLLIN, 0};
      if (::poll(&wait, 1, 1) <= 0 && faults_.empty() && !unclear()) continue;
      hearing_ = true;
      const std::unique_lock lock(moving_);
      hearing_ = false;
      const auto forked = [](const UniqueFd& /*child*/) { return Status::ok(); };
      const Status heard = space_.hear(faults_, forked);
      if (!heard) ADD_FAILURE() << heard.message();
      if (space_.unclear()) continue;
      std::erase_if(faults_, [&](uint64_t page) {
        if (space_.then_of(page)) return true;
        const Result<Put> put = space_.put_zeros(page);
        return !put || *put == Put::kDone;
      });
      ++times_heard_;
    }
  }

  LazySpace& space_;
  std::vector<uint64_t> faults_;
  std::shared_mutex moving_;
  std::atomic<bool> hearing_{false};  ///< it waits for moving_
  std::atomic<uint64_t> times_heard_{0};
  std::atomic<bool> end_{false};
  std::thread thread_;
};

/// Puts the image's pages one by one, whatever moves.
void put_all(LazySpace& space, Listener& listener, uint64_t pages, Told& told) {
  std::array<std::byte, kPage> bytes{};
  for (uint64_t page = 0; page < pages; ++page) {
    const uint64_t word = word_of(page);
    std::memcpy(bytes.data(), &word, sizeof word);
    for (;;) {
      {
        const auto lock = listener.still();
        const Result<Put> put = space.put(told.from + page * kPage, bytes);
        ASSERT_TRUE(put) << put.error().message();
        if (*put == Put::kDone) break;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(10));
    }
    ++told.puts;
  }
}

UniqueFd descriptor_of(const UniqueFd& process, const Told& told) {
  return UniqueFd(
      static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), told.descriptor.load(), 0)));
}

// Before Linux 6.16 the kernel tells the length that such a map had, not what was moved of it.
TEST(LazySpace, PutsEachPageInItsPlace_WhenMapsAreCutAsTheyMove_OrStayWhereTheyWere) {
  constexpr uint64_t kCount = 64;
  void* shared =
      ::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto& told = *new (shared) Told;
  const pid_t program = ::fork();
  ASSERT_GE(program, 0);
  if (program == 0) cut_and_look(told);
  ASSERT_TRUE(wait_while_it_lives(program, [&] { return told.descriptor != -1; }));
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, program, 0)));
  UniqueFd descriptor = descriptor_of(process, told);
  ASSERT_TRUE(descriptor) << "of the program: " << told.descriptor;
  MissingPages missing;
  missing.add(told.from, told.from, kCount * kPage);
  LazySpace space(std::move(descriptor), program, std::move(missing));
  Listener listener(space);
  told.taken = true;
  ASSERT_TRUE(wait_while_it_lives(program, [&] { return told.moved == 1 && !listener.unclear(); }));
  told.look = true;
  ASSERT_TRUE(wait_while_it_lives(program, [&] { return told.moved == 2; }));
  put_all(space, listener, kCount, told);
  EXPECT_TRUE(space.missing().empty());
  told.stop = true;
  int status = -1;
  ASSERT_EQ(::waitpid(program, &status, 0), program);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0) << "20 and more: pages of some map, see cut_and_look";
  ::munmap(shared, sizeof(Told));
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
    UniqueFd descriptor = descriptor_of(process, told);
    ASSERT_TRUE(descriptor) << "of the program: " << told.descriptor;
    {
      MissingPages missing;
      missing.add(told.from, told.from, kLength);
      LazySpace space(std::move(descriptor), program, std::move(missing));
      Listener listener(space);
      told.taken = true;
      ASSERT_TRUE(wait_while_it_lives(program, [&] { return listener.times_heard() > 0; }));
      put_all(space, listener, kPages, told);
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
