// Shared anonymous memory between parent and child: both see one memory, also after a restart.
#include <sys/mman.h>

#include <atomic>

#include "tests/states/state.h"

int main() {
  constexpr size_t kSize = 1 << 20;
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED, "mmap");
  auto* words = static_cast<std::atomic<uint32_t>*>(memory);
  auto* bytes = static_cast<uint8_t*>(memory);
  state::fill(bytes + 4096, kSize - 4096, 5);
  const pid_t pid = state::child([words, bytes] {
    words[0] = 1;
    state::wait_for_go();
    state::check_filled(bytes + 4096, kSize - 4096, 5, "the child's view");
    words[1] = 111;
    while (words[2] != 222) state::sleep_ms(1);
    words[3] = 333;
  });
  while (words[0] != 1) state::sleep_ms(1);
  state::hold();
  const int64_t until = state::now_ms() + 5000;
  while (words[1] != 111) {
    CHECK(state::now_ms() < until, "the child's write is not seen: the memory is no longer shared");
    state::sleep_ms(1);
  }
  state::check_filled(bytes + 4096, kSize - 4096, 5, "the parent's view");
  words[2] = 222;
  state::reap(pid);
  CHECK(words[3] == 333, "the child's last write is missing");
  state::pass();
}
