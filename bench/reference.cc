// What the machine itself can do, for scripts/bench to compare with: bench-reference
//   write FILE MIB   makes FILE by O_DIRECT, 4 MiB at a time, and syncs it, as dd(1) does
//   read FILE        reads it by O_DIRECT, 4 MiB at a time
//   copy MIB         copies memory that is there to memory that is there
// Prints the seconds it took. Nothing but the bytes' way is timed.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr size_t kPiece = 4U << 20U;

using Clock = std::chrono::steady_clock;

int report(Clock::time_point start) {
  std::printf("%.6f\n", std::chrono::duration<double>(Clock::now() - start).count());
  return 0;
}

int failed(const char* what) {
  std::perror(what);
  return 1;
}

char* memory_of(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) std::exit(failed("mmap"));
  uint64_t state = 88172645463325252U;
  auto* words = static_cast<uint64_t*>(memory);
  for (size_t i = 0; i < bytes / sizeof(uint64_t); ++i) {
    state ^= state << 13U;
    state ^= state >> 7U;
    state ^= state << 17U;
    words[i] = state;
  }
  return static_cast<char*>(memory);
}

int write_file(const char* name, size_t bytes) {
  const char* piece = memory_of(kPiece);
  const auto start = Clock::now();
  const int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
  if (fd < 0) return failed(name);
  for (size_t done = 0; done < bytes; done += kPiece) {
    if (write(fd, piece, kPiece) != static_cast<ssize_t>(kPiece)) return failed(name);
  }
  if (fsync(fd) != 0) return failed(name);
  return report(start);
}

int read_file(const char* name) {
  char* piece = memory_of(kPiece);
  const auto start = Clock::now();
  const int fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0) return failed(name);
  ssize_t got = 0;
  while ((got = read(fd, piece, kPiece)) > 0) {
  }
  if (got < 0) return failed(name);
  return report(start);
}

int copy(size_t bytes) {
  const char* from = memory_of(bytes);
  char* to = memory_of(bytes);
  const auto start = Clock::now();
  std::memcpy(to, from, bytes);
  const int status = report(start);
  return to[bytes - 1] == from[bytes - 1] ? status : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const auto mebibytes = [&](int at) { return std::strtoull(argv[at], nullptr, 10) << 20U; };
  if (what == "write" && argc == 4) return write_file(argv[2], mebibytes(3));
  if (what == "read" && argc == 3) return read_file(argv[2]);
  if (what == "copy" && argc == 3) return copy(mebibytes(2));
  std::fputs("bench-reference write FILE MIB | read FILE | copy MIB\n", stderr);
  return 2;
}
