#include "node-agent/huge_pages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <string>

namespace fermata::node_agent {
namespace {

constexpr size_t kSize = size_t{16} << 20;
constexpr size_t kHuge = size_t{2} << 20;

/// AnonHugePages of smaps_rollup, proc_pid_smaps(5).
uint64_t huge_bytes_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/smaps_rollup", pid));
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("AnonHugePages:")) return std::stoull(line.substr(14)) << 10;
  }
  return 0;
}

/// Fills memory with huge pages; then, told to, forks and writes to each page while the child
/// lives.
class Forker {
 public:
  Forker() {
    EXPECT_EQ(pipe2(told_, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(tells_, O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) run();
    close(told_[0]);
    close(tells_[1]);
    hear();
  }
  ~Forker() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(told_[1]);
    close(tells_[0]);
  }
  Forker(const Forker&) = delete;
  Forker& operator=(const Forker&) = delete;

  pid_t pid() const { return pid_; }
  void split() {
    EXPECT_EQ(write(told_[1], "x", 1), 1);
    hear();
  }

 private:
  void hear() {
    char byte = 0;
    EXPECT_EQ(read(tells_[0], &byte, 1), 1);
  }

  [[noreturn]] void run() {
    char byte = 'x';
    auto* all = static_cast<char*>(
        mmap(nullptr, kSize + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    char* memory = all + (kHuge - reinterpret_cast<uintptr_t>(all) % kHuge) % kHuge;
    madvise(memory, kSize, MADV_HUGEPAGE);
    memset(memory, 1, kSize);
    if (write(tells_[1], &byte, 1) != 1 || read(told_[0], &byte, 1) != 1) _exit(1);
    const pid_t twin = fork();
    if (twin == 0) {
      pause();
      _exit(0);
    }
    for (size_t at = 0; at < kSize; at += 4096) memory[at] = 2;
    kill(twin, SIGKILL);
    waitpid(twin, nullptr, 0);
    if (write(tells_[1], &byte, 1) != 1) _exit(1);
    for (;;) pause();
  }

  int told_[2];
  int tells_[2];
  pid_t pid_ = -1;
};

TEST(HugePages, AreAsManyAgain_AfterATwin) {
  Forker forker;
  const uint64_t before = huge_bytes_of(forker.pid());
  ASSERT_GT(before, 0U) << "the kernel gives no huge pages to who asks (transparent_hugepage)";
  HugePages pages;
  pages.note({forker.pid()});
  EXPECT_EQ(pages.bytes(), before);
  forker.split();
  ASSERT_LT(huge_bytes_of(forker.pid()), before);
  pages.mend();
  pages.wait();
  EXPECT_EQ(huge_bytes_of(forker.pid()), before);
}

TEST(HugePages, AProcessThatEnded_IsPassedOver) {
  HugePages pages;
  {
    Forker forker;
    pages.note({forker.pid(), 1 << 30});
    EXPECT_GT(pages.bytes(), 0U);
  }
  pages.mend();
  pages.wait();
  pages.note({});
  EXPECT_EQ(pages.bytes(), 0U);
}

}  // namespace
}  // namespace fermata::node_agent
