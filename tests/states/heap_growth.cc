// The heap after the cut goes on where it was: brk grows, mremap grows and moves, malloc finds its
// lists.
#include <sys/mman.h>

#include <vector>

#include "tests/states/state.h"

int main() {
  std::vector<std::vector<uint8_t>> blocks;
  for (unsigned i = 0; i < 200; i++) {
    blocks.emplace_back(1000 + i * 977);
    state::fill(blocks.back().data(), blocks.back().size(), i);
    if (i % 3 == 0) blocks[i / 2].shrink_to_fit();
  }
  char* end = static_cast<char*>(sbrk(0));
  CHECK(sbrk(8192) == end, "sbrk");
  memset(end, 0x31, 8192);
  void* moving = mmap(nullptr, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(moving != MAP_FAILED, "mmap");
  state::fill(moving, 65536, 999);
  moving = mremap(moving, 65536, 1 << 20, MREMAP_MAYMOVE);
  CHECK(moving != MAP_FAILED, "mremap");
  state::hold();
  for (unsigned i = 0; i < 200; i++) {
    state::check_filled(blocks[i].data(), blocks[i].size(), i, "a heap block");
  }
  CHECK(sbrk(0) == end + 8192, "the program break is at %p, not %p", sbrk(0),
        static_cast<void*>(end + 8192));
  CHECK(end[0] == 0x31 && end[8191] == 0x31, "memory below the break changed");
  CHECK(sbrk(1 << 20) == end + 8192, "the break does not grow");
  memset(end + 8192, 1, 1 << 20);
  void* grown = mremap(moving, 1 << 20, 4 << 20, MREMAP_MAYMOVE);
  CHECK(grown != MAP_FAILED, "mremap after the cut: %s", strerror(errno));
  state::check_filled(grown, 65536, 999, "the moved range");
  memset(grown, 2, 4 << 20);
  for (unsigned i = 0; i < 200; i++) blocks[i].resize(blocks[i].size() * 3);
  state::pass();
}
