// Huge pages of the machine's pool that a process shares with its child (MAP_HUGETLB, MAP_SHARED):
// each sees what the other writes.
#include <sys/mman.h>

#include <atomic>

#include "tests/states/state.h"

int main() {
  constexpr size_t kPage = size_t{2} << 20;
  constexpr size_t kPages = 3;
  constexpr size_t kHole = 2;
  constexpr int kHuge = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
  void* memory = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, kHuge, -1, 0);
  CHECK(memory != MAP_FAILED, "mmap of huge pages");
  auto* bytes = static_cast<uint8_t*>(memory);
  state::fill(bytes, kPage, 1);
  auto* turn = new (bytes + kPage) std::atomic<int>(0);
  const pid_t child = state::child([&] {
    turn->store(1);
    while (turn->load() != 2) state::sleep_ms(1);
    state::check_filled(bytes, kPage, 5, "what the parent has written");
    state::fill(bytes, kPage, 6);
    turn->store(3);
  });
  while (turn->load() != 1) state::sleep_ms(1);
  state::hold();

  state::check_filled(bytes, kPage, 1, "a huge page");
  CHECK(turn->load() == 1, "the turn is %d", turn->load());
  state::fill(bytes, kPage, 5);
  turn->store(2);
  state::reap(child);
  CHECK(turn->load() == 3, "what the child has written last");
  state::check_filled(bytes, kPage, 6, "what the child has written");
  CHECK(bytes[kHole * kPage] == 0, "a page that was never written");
  state::pass();
}
