// MADV_DONTFORK and MADV_WIPEONFORK memory: kept by the process, and still absent and zero in a
// later child.
#include <sys/mman.h>

#include <csignal>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = 256 * 1024;
  uint8_t* range[2];
  for (unsigned i = 0; i < 2; i++) {
    void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED, "mmap");
    state::must(madvise(memory, kSize, i == 0 ? MADV_DONTFORK : MADV_WIPEONFORK), "madvise");
    state::fill(memory, kSize, i);
    range[i] = static_cast<uint8_t*>(memory);
  }
  state::hold();
  state::check_filled(range[0], kSize, 0, "MADV_DONTFORK memory");
  state::check_filled(range[1], kSize, 1, "MADV_WIPEONFORK memory");
  const pid_t pid = state::child([&range] {
    unsigned char present = 0;
    CHECK(mincore(range[0], 4096, &present) == -1 && errno == ENOMEM,
          "MADV_DONTFORK memory came into a child");
    for (size_t i = 0; i < kSize; i++) {
      CHECK(range[1][i] == 0, "MADV_WIPEONFORK memory was not wiped in a child");
    }
  });
  state::reap(pid);
  state::pass();
}
