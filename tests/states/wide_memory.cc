// Memory that is worked on all the time, in blocks of a MiB: checked by the program and by its
// children, moved, given up and filled again. So a restart finds it at work at once, whether its
// memory has come by then (restart) or not (lazy).
//
//   wide_memory [MIB [alone]]      alone: without children
#include <sys/mman.h>

#include <cstdlib>
#include <vector>

#include "tests/states/state.h"

namespace {
constexpr size_t kBlock = 1 << 20;

struct Block {
  uint8_t* at;
  unsigned seed;
};
std::vector<Block> blocks;
unsigned last_seed = 0;
uint64_t random_state = 88172645463325252U;

Block& any_block() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return blocks[random_state % blocks.size()];
}

void check(const Block& block) { state::check_filled(block.at, kBlock, block.seed, "a block"); }

uint8_t* map(size_t size) {
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED, "mmap");
  return static_cast<uint8_t*>(at);
}

void move(Block& block) {
  uint8_t* to = map(kBlock);
  void* moved = mremap(block.at, kBlock, kBlock, MREMAP_MAYMOVE | MREMAP_FIXED, to);
  CHECK(moved == to, "mremap");
  block.at = to;
}

void renew(Block& block) {
  state::must(madvise(block.at, kBlock, MADV_DONTNEED), "madvise");
  for (size_t i = 0; i < kBlock; i += 512) CHECK(block.at[i] == 0, "no zero at %zu", i);
  block.seed = ++last_seed;
  state::fill(block.at, kBlock, block.seed);
}

void map_anew(Block& block) {
  state::must(munmap(block.at, kBlock), "munmap");
  block.at = map(kBlock);
  CHECK(block.at[kBlock / 2] == 0, "a new map has something in it");
  block.seed = ++last_seed;
  state::fill(block.at, kBlock, block.seed);
}

/// The kernel reads and writes pages, too.
void by_the_kernel(Block& block) {
  int ends[2];
  state::must(pipe(ends), "pipe");
  uint8_t page[4096];
  CHECK(write(ends[1], block.at + 8192, sizeof page) == sizeof page, "write: %m");
  CHECK(read(ends[0], page, sizeof page) == sizeof page, "read: %m");
  CHECK(memcmp(page, block.at + 8192, sizeof page) == 0, "the kernel wrote another page");
  CHECK(write(ends[1], page, sizeof page) == sizeof page, "write: %m");
  CHECK(read(ends[0], block.at + 8192, sizeof page) == sizeof page, "read: %m");
  close(ends[0]);
  close(ends[1]);
  check(block);
}

void in_children() {
  state::reap(state::child([] {
    check(any_block());
    renew(any_block());
    state::reap(state::child([] {
      any_block();
      check(any_block());
    }));
    check(any_block());
  }));
}
}  // namespace

int main(int argc, char** argv) {
  const size_t count = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 24;
  uint8_t* all = map(count * kBlock);
  for (size_t i = 0; i < count; ++i) {
    blocks.push_back({all + i * kBlock, ++last_seed});
    state::fill(blocks[i].at, kBlock, last_seed);
  }
  const bool alone = argc > 2;
  state::ready();
  for (unsigned turn = 0; access(state::path("go").c_str(), F_OK) != 0; ++turn) {
    switch (turn % 6) {
      case 0:
        if (!alone) in_children();
        break;
      case 1:
        move(any_block());
        break;
      case 2:
        renew(any_block());
        break;
      case 3:
        by_the_kernel(any_block());
        break;
      case 4:
        map_anew(any_block());
        break;
      default:
        check(any_block());
    }
  }
  for (const Block& block : blocks) check(block);
  state::pass();
}
