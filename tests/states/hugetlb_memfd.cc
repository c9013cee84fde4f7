// A memfd of huge pages (MFD_HUGETLB), written by a map that is gone.
#include <sys/mman.h>

#include "tests/states/state.h"

int main() {
  constexpr size_t kPage = size_t{2} << 20;
  const int fd =
      state::must(memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | (21U << MAP_HUGE_SHIFT)),
                  "memfd_create of huge pages");
  state::must(ftruncate(fd, kPage), "ftruncate");
  void* memory = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(memory != MAP_FAILED, "mmap");
  state::fill(memory, kPage, 1);
  state::must(munmap(memory, kPage), "munmap");
  state::hold();
  memory = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(memory != MAP_FAILED, "mmap once more");
  state::check_filled(memory, kPage, 1, "the huge page of a memfd");
  state::pass();
}
