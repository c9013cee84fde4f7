// A program with memory to be held, for scripts/bench: bench-memory MIB [PERCENT]
//
// Fills MIB mebibytes of 4 KiB pages with bytes that do not compress, says "ready", and then only
// looks at the clock, every millisecond. SIGUSR1: writes to PERCENT of its pages, spread evenly,
// and says "dirtied". SIGUSR2: forks a child that ends at once, and says "fork SECONDS": how long
// it stood still for that. After a gap of more than a tenth of a second it says "ran TIME", the
// time of day at which it ran again.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kWordsOfPage = kPage / sizeof(uint64_t);

// A lock-free flag is all that a handler may touch.
volatile std::sig_atomic_t dirty_wanted = 0;
volatile std::sig_atomic_t fork_wanted = 0;

void want_dirty(int /*signal*/) { dirty_wanted = 1; }
void want_fork(int /*signal*/) { fork_wanted = 1; }

double seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void fill(uint64_t* words, uint64_t count) {
  uint64_t state = 0x9e3779b97f4a7c15U ^ static_cast<uint64_t>(getpid());
  for (uint64_t i = 0; i < count; ++i) {
    state ^= state << 13U;  // xorshift64, Marsaglia 2003
    state ^= state >> 7U;
    state ^= state << 17U;
    words[i] = state;
  }
}

void dirty(uint64_t* words, uint64_t pages, double percent) {
  static uint64_t round = 0;
  ++round;
  const auto wanted = static_cast<uint64_t>(static_cast<double>(pages) * percent / 100);
  for (uint64_t i = 0; i < wanted; ++i) words[i * pages / wanted * kWordsOfPage] += round;
  std::puts("dirtied");
}

void fork_once() {
  const double start = seconds(CLOCK_MONOTONIC);
  const pid_t child = fork();
  if (child == 0) _exit(0);
  std::printf("fork %.6f\n", seconds(CLOCK_MONOTONIC) - start);
  waitpid(child, nullptr, 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("bench-memory MIB [PERCENT]\n", stderr);
    return 2;
  }
  const uint64_t bytes = std::strtoull(argv[1], nullptr, 10) << 20U;
  const double percent = argc > 2 ? std::strtod(argv[2], nullptr) : 0;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("bench-memory");
    return 1;
  }
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  auto* words = static_cast<uint64_t*>(memory);
  fill(words, bytes / sizeof(uint64_t));
  std::signal(SIGUSR1, want_dirty);
  std::signal(SIGUSR2, want_fork);
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  std::puts("ready");
  constexpr double kGap = 0.1;
  for (double last = seconds(CLOCK_REALTIME);;) {
    const timespec pause{0, 1'000'000};
    nanosleep(&pause, nullptr);
    const double now = seconds(CLOCK_REALTIME);
    if (now - last > kGap) std::printf("ran %.6f\n", now);
    if (dirty_wanted != 0) {
      dirty_wanted = 0;
      dirty(words, bytes / kPage, percent);
    }
    if (fork_wanted != 0) {
      fork_wanted = 0;
      fork_once();
    }
    last = seconds(CLOCK_REALTIME);
  }
}
