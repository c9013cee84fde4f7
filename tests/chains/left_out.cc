// Memory that is left out of one checkpoint of a chain and is in the next: 80 MiB, 8 MiB of which
// become scratch (MADV_DONTDUMP) when <dir>/hide is there, and memory like any other again, not
// written meanwhile, when <dir>/show is. Says hidden, shown; at <dir>/go looks at every word.
//
//   left_out [huge]   huge: in transparent huge pages, where the kernel has some
#include <sys/mman.h>

#include "tests/states/state.h"

namespace {

constexpr size_t kMiB = 1 << 20;
constexpr size_t kBytes = 80 * kMiB;
constexpr size_t kWords = kBytes / sizeof(uint64_t);

uint64_t word_of(size_t index) { return (index + 1) * 0x9e3779b97f4a7c15ULL; }

void wait_for(const char* name) {
  while (access(state::path(name).c_str(), F_OK) != 0) state::sleep_ms(4);
}

}  // namespace

int main(int argc, char**) {
  void* map = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(map != MAP_FAILED, "mmap");
  if (argc > 1) madvise(map, kBytes, MADV_HUGEPAGE);
  auto* words = static_cast<uint64_t*>(map);
  for (size_t i = 0; i < kWords; ++i) words[i] = word_of(i);
  uint64_t* middle = words + kWords / 2;
  state::ready();
  wait_for("hide");
  state::must(madvise(middle, 8 * kMiB, MADV_DONTDUMP), "DONTDUMP");
  state::put("hidden", "");
  wait_for("show");
  state::must(madvise(middle, 8 * kMiB, MADV_DODUMP), "DODUMP");
  state::put("shown", "");
  state::wait_for_go();
  for (size_t i = 0; i < kWords; ++i) {
    CHECK(words[i] == word_of(i), "word %zu is %llx", i, static_cast<unsigned long long>(words[i]));
  }
  state::pass();
}
