// What every state program shares: the talk with run_state, and checks that end in one sentence.
//
// A program puts itself in a state, calls ready() and stays in the state until <dir>/go exists;
// then it checks itself and ends by pass() or fail(). <dir> is $FERMATA_STATE_DIR; files in it are
// no part of an image, so `go` belongs to the harness alone: a restart brings the program back to
// before it, as often as wanted.
#pragma once

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>
#include <string>
#include <string_view>
#include <thread>

namespace state {

inline std::string path(std::string_view name) {
  const char* dir = getenv("FERMATA_STATE_DIR");
  return std::string(dir != nullptr ? dir : ".").append("/").append(name);
}

/// Creates <dir>/<name> in one step, or leaves the one that is there: the first result stands.
inline void put(std::string_view name, std::string_view text) {
  const std::string part = path(name) + "." + std::to_string(getpid()) + ".part";
  const int fd = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) _exit(3);
  close(fd);
  if (link(part.c_str(), path(name).c_str()) != 0 && errno != EEXIST) _exit(3);
  unlink(part.c_str());
}

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  const int error = errno;
  char text[600] = "FAIL: ";
  va_list args;
  va_start(args, format);
  vsnprintf(text + 6, sizeof text - 100, format, args);
  va_end(args);
  const size_t used = strlen(text);
  snprintf(text + used, sizeof text - used, " (process %d, errno %d)\n", getpid(), error);
  fputs(text, stderr);
  put("result", text);
  _exit(1);
}

[[noreturn]] inline void pass() {
  put("result", "PASS\n");
  _exit(0);
}

/// Ends the program with a sentence when `condition` does not hold.
#define CHECK(condition, ...)                     \
  do {                                            \
    if (!(condition)) ::state::fail(__VA_ARGS__); \
  } while (0)

/// The value of a call that may not fail.
template <typename T>
T must(T value, const char* what) {
  if (value == static_cast<T>(-1)) fail("%s: %s", what, strerror(errno));
  return value;
}

inline pid_t gettid() { return static_cast<pid_t>(syscall(SYS_gettid)); }

inline int64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{1000000000} * now.tv_sec + now.tv_nsec;
}

inline int64_t now_ms() { return clock_ns(CLOCK_MONOTONIC) / 1000000; }

inline void sleep_ms(int ms) {
  timespec rest{ms / 1000, long{ms % 1000} * 1000000};
  while (nanosleep(&rest, &rest) != 0 && errno == EINTR) {
  }
}

/// A number that the harness has noted by the time it says go, for programs that depend on it:
/// cuts, restarts, away_ms (the time that checkpoints and restarts took). 0: none.
inline int noted(std::string_view name) {
  int number = 0;
  std::ifstream(path(name)) >> number;
  return number;
}

/// Milliseconds that a machine may be late: more where the harness says that it is slow. After go
/// also what the harness measured that the checkpoints and restarts took.
inline int late_ms() {
  const char* factor = getenv("FERMATA_TEST_SLOWDOWN");
  return 800 * (factor != nullptr ? atoi(factor) : 1) + noted("away_ms");
}

inline void ready(std::string_view note = "") { put("ready", note); }

inline bool go() { return access(path("go").c_str(), F_OK) == 0; }

inline void wait_for_go() {
  while (!go()) sleep_ms(4);
}

/// Says ready and stays until go.
inline void hold() {
  ready();
  wait_for_go();
}

/// True while the thread sleeps in system call `number` (proc(5), /proc/PID/syscall).
inline bool in_call(pid_t pid, pid_t tid, long number) {
  char name[64];
  snprintf(name, sizeof name, "/proc/%d/task/%d/syscall", pid, tid);
  FILE* file = fopen(name, "re");
  long at = -1;
  const bool read = file != nullptr && fscanf(file, "%ld", &at) == 1;
  if (file != nullptr) fclose(file);
  return read && at == number;
}

inline void wait_in_call(pid_t pid, pid_t tid, long number) {
  const int64_t until = now_ms() + 5000 + late_ms();
  while (!in_call(pid, tid, number)) {
    CHECK(now_ms() < until, "thread %d never came to system call %ld", tid, number);
    sleep_ms(2);
  }
}

/// For a call that only somebody else ends: a thread that says ready once the caller is blocked in
/// `number`, and does `then` after go.
inline std::thread after_go(long number, std::function<void()> then) {
  return std::thread([tid = gettid(), number, then = std::move(then)] {
    wait_in_call(getpid(), tid, number);
    ready();
    wait_for_go();
    then();
  });
}

/// Whether the kernel tells how much of an interrupted wait is left. Where it does not, a wait may
/// begin again at each cut that a restart (kTellsWhenHeld) or any checkpoint (kNeverTells) made:
/// late, but never early and never with an error.
enum class Rest { kAlwaysTold, kTellsWhenHeld, kNeverTells };

/// For a call that its own timeout ends: `call` waits 2 s in `number`, ready comes at half time,
/// and the whole must have taken 2 s of the program's own clock.
constexpr int kTimeoutMs = 2000;
inline void timed_wait(long number, Rest rest, const std::function<void()>& call) {
  const pid_t tid = gettid();
  std::thread teller([tid, number] {
    wait_in_call(getpid(), tid, number);
    sleep_ms(kTimeoutMs / 2);
    ready();
  });
  const int64_t start = clock_ns(CLOCK_MONOTONIC);
  call();
  const auto took = static_cast<int>((clock_ns(CLOCK_MONOTONIC) - start) / 1000000);
  teller.join();
  CHECK(took >= kTimeoutMs - 1, "a wait of %d ms ended after %d", kTimeoutMs, took);
  wait_for_go();
  int begun = 1;
  if (rest == Rest::kTellsWhenHeld) begun += noted("restarts");
  if (rest == Rest::kNeverTells) begun += noted("cuts");
  const int most = begun * kTimeoutMs;
  CHECK(took <= most + late_ms(), "a wait of %d ms took %d", kTimeoutMs, took);
}

/// A child that runs `body` and exits 0.
inline pid_t child(const std::function<void()>& body) {
  const pid_t pid = must(fork(), "fork");
  if (pid == 0) {
    body();
    _exit(0);
  }
  return pid;
}

/// Waits for a child, which must exit with `code`.
inline void reap(pid_t pid, int code = 0) {
  int status = -1;
  CHECK(waitpid(pid, &status, 0) == pid, "child %d is not ours any more", pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code, "child %d: status %x, expected exit %d",
        pid, static_cast<unsigned>(status), code);
}

/// A byte that depends on place and seed, for filling and checking buffers.
inline uint8_t pattern(size_t index, unsigned seed) {
  return static_cast<uint8_t>((index * 2654435761U + size_t{seed} * 40503U) >> 7);
}

inline void fill(void* memory, size_t size, unsigned seed) {
  auto* bytes = static_cast<uint8_t*>(memory);
  for (size_t i = 0; i < size; i++) bytes[i] = pattern(i, seed);
}

inline void check_filled(const void* memory, size_t size, unsigned seed, const char* what) {
  const auto* bytes = static_cast<const uint8_t*>(memory);
  for (size_t i = 0; i < size; i++) {
    CHECK(bytes[i] == pattern(i, seed), "%s: byte %zu of %zu is not what was written", what, i,
          size);
  }
}

}  // namespace state
