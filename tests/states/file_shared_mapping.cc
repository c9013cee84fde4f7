// A shared mapping of a regular file: what is written after the cut reaches the file.
#include <sys/mman.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = 16 * 4096;
  const std::string name = state::path("mapped");
  const int fd = state::must(open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644), "open");
  state::must(ftruncate(fd, kSize), "ftruncate");
  auto* memory =
      static_cast<uint8_t*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  CHECK(memory != MAP_FAILED, "mmap");
  state::fill(memory, kSize / 2, 9);
  state::hold();
  state::check_filled(memory, kSize / 2, 9, "the mapping");
  memory[kSize - 1] = 0x77;
  uint8_t last = 0;
  CHECK(pread(fd, &last, 1, kSize - 1) == 1 && last == 0x77, "a write did not reach the file");
  const uint8_t other = 0x66;
  CHECK(pwrite(fd, &other, 1, kSize - 2) == 1, "pwrite");
  CHECK(memory[kSize - 2] == 0x66, "a write to the file is not seen in the mapping");
  state::pass();
}
