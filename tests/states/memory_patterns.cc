// Private memory of every protection: written, read-only, no access, executable, never touched, and
// its limits.
#include <sys/mman.h>

#include "tests/states/state.h"

namespace {
constexpr size_t kSize = 1 << 20;

uint8_t* map(int protection) {
  void* memory = mmap(nullptr, kSize, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED, "mmap");
  return static_cast<uint8_t*>(memory);
}

/// True when the page can be read / written, as the kernel sees it.
bool readable(const uint8_t* at) {
  const int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
  int ends[2];
  state::must(pipe(ends), "pipe");
  const bool can = write(ends[1], at, 1) == 1;
  close(ends[0]);
  close(ends[1]);
  close(fd);
  return can;
}

bool writable(uint8_t* at) {
  int ends[2];
  state::must(pipe(ends), "pipe");
  const uint8_t same = readable(at) ? *at : 0;
  state::must(write(ends[1], &same, 1), "write");
  const bool can = read(ends[0], at, 1) == 1;
  close(ends[0]);
  close(ends[1]);
  return can;
}
}  // namespace

int main() {
  uint8_t* plain = map(PROT_READ | PROT_WRITE);
  state::fill(plain, kSize, 1);
  uint8_t* fixed = map(PROT_READ | PROT_WRITE);
  state::fill(fixed, kSize, 2);
  mprotect(fixed, kSize, PROT_READ);
  uint8_t* hidden = map(PROT_READ | PROT_WRITE);
  state::fill(hidden, kSize, 3);
  mprotect(hidden, kSize, PROT_NONE);
  uint8_t* guard = map(PROT_NONE);
  uint8_t* holes = map(PROT_READ | PROT_WRITE);
  for (size_t at = 0; at < kSize; at += 3 * 4096) holes[at] = static_cast<uint8_t>(at >> 12 | 1);
  munmap(holes + kSize / 2, 4096);
  uint8_t* code = map(PROT_READ | PROT_WRITE);
  const uint8_t instructions[] = {0xb8, 0x2a, 0, 0, 0, 0xc3};  // mov $42,%eax; ret
  memcpy(code, instructions, sizeof instructions);
  mprotect(code, kSize, PROT_READ | PROT_EXEC);
  state::hold();
  state::check_filled(plain, kSize, 1, "written memory");
  state::check_filled(fixed, kSize, 2, "read-only memory");
  CHECK(!writable(fixed), "read-only memory can be written");
  CHECK(!readable(hidden) && !readable(guard), "memory without access can be read");
  mprotect(hidden, kSize, PROT_READ);
  state::check_filled(hidden, kSize, 3, "memory behind PROT_NONE");
  for (size_t at = 0; at < kSize; at += 4096) {
    if (at == kSize / 2) continue;
    const auto expected = at % (3 * 4096) == 0 ? static_cast<uint8_t>(at >> 12 | 1) : 0;
    CHECK(holes[at] == expected, "page %zu holds %d, not %d", at >> 12, holes[at], expected);
  }
  CHECK(!readable(holes + kSize / 2), "an unmapped page is back");
  CHECK(reinterpret_cast<int (*)()>(code)() == 42, "the code in memory does something else");
  CHECK(!writable(code), "code can be written");
  state::pass();
}
