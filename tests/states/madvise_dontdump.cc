// Memory marked MADV_DONTDUMP is scratch: untouched where the job runs on, zeros after a restart,
// nothing else.
#include <sys/mman.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = 1 << 20;
  auto* memory = static_cast<uint8_t*>(
      mmap(nullptr, 3 * kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(memory != MAP_FAILED, "mmap");
  state::fill(memory, kSize, 1);
  memset(memory + kSize, 0xAB, kSize);
  state::fill(memory + 2 * kSize, kSize, 3);
  state::must(madvise(memory + kSize, kSize, MADV_DONTDUMP), "madvise");
  state::hold();
  state::check_filled(memory, kSize, 1, "memory before the scratch");
  state::check_filled(memory + 2 * kSize, kSize, 3, "memory after the scratch");
  // The harness says whether a restart lies behind us.
  const uint8_t expected = state::noted("restarts") > 0 ? 0 : 0xAB;
  for (size_t i = 0; i < kSize; i++) {
    CHECK(memory[kSize + i] == expected, "scratch byte %zu is %x, not %x", i, memory[kSize + i],
          expected);
  }
  memset(memory + kSize, 1, kSize);
  state::pass();
}
