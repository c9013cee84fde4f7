// Huge pages of the machine's pool that children share (MAP_HUGETLB, MAP_SHARED).
#include <sys/mman.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kPage = size_t{2} << 20;
  constexpr int kHuge = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
  void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, kHuge, -1, 0);
  CHECK(memory != MAP_FAILED, "mmap of a huge page");
  state::fill(memory, kPage, 1);
  state::hold();
  state::check_filled(memory, kPage, 1, "a huge page");
  state::pass();
}
