// A private mapping of a file: some pages written (ours), the others still the file's.
#include <sys/mman.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = 64 * 4096;
  const std::string name = state::path("mapped");
  const int fd = state::must(open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644), "open");
  static uint8_t content[kSize];
  state::fill(content, kSize, 4);
  state::must(write(fd, content, kSize), "write");
  auto* memory =
      static_cast<uint8_t*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  auto* tail = static_cast<uint8_t*>(mmap(nullptr, 8192, PROT_READ, MAP_PRIVATE, fd, 16 * 4096));
  CHECK(memory != MAP_FAILED && tail != MAP_FAILED, "mmap");
  close(fd);
  for (size_t page = 0; page < 64; page += 4) memory[page * 4096 + 5] = 0xEE;
  state::hold();
  for (size_t at = 0; at < kSize; at++) {
    const bool ours = (at >> 12) % 4 == 0 && at % 4096 == 5;
    CHECK(memory[at] == (ours ? 0xEE : state::pattern(at, 4)), "byte %zu is %x", at, memory[at]);
  }
  CHECK(memcmp(tail, content + 16 * 4096, 8192) == 0, "the second mapping shows another part");
  const int again = state::must(open(name.c_str(), O_RDONLY), "open");
  static uint8_t now[kSize];
  CHECK(read(again, now, kSize) == ssize_t{kSize}, "read");
  CHECK(memcmp(now, content, kSize) == 0, "private writes reached the file");
  state::pass();
}
