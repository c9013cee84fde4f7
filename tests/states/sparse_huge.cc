// 64 GiB of address space with nine pages in use: time and image must follow the pages, not the
// address space.
#include <sys/mman.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = size_t{64} << 30;
  constexpr size_t kStep = size_t{8} << 30;
  auto* memory = static_cast<uint8_t*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  CHECK(memory != MAP_FAILED, "mmap");
  madvise(memory, kSize, MADV_NOHUGEPAGE);
  for (unsigned i = 0; i < 8; i++) state::fill(memory + i * kStep, 4096, i);
  memory[kSize - 1] = 0x5A;
  state::hold();
  for (unsigned i = 0; i < 8; i++) {
    state::check_filled(memory + i * kStep, 4096, i, "a page in the desert");
    CHECK(memory[i * kStep + kStep / 2] == 0, "an untouched page is not zero");
  }
  CHECK(memory[kSize - 1] == 0x5A, "the last byte changed");
  state::pass();
}
