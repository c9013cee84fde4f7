// Memory that is there at the first checkpoint of a chain and gets its transparent huge pages after
// it. Writes all of it when <dir>/touch is there, and a word of each huge page whenever there is
// another <dir>/write.N, from 1 on; says touched, written.N. At <dir>/go looks at every word.
#include <sys/mman.h>

#include "tests/states/state.h"

namespace {

constexpr size_t kHuge = 2 << 20;
constexpr size_t kCount = 32;
constexpr size_t kBytes = kCount * kHuge;
constexpr size_t kWords = kBytes / sizeof(uint64_t);
constexpr size_t kEach = kHuge / sizeof(uint64_t);

uint64_t word_of(size_t index) { return (index + 1) * 0x9e3779b97f4a7c15ULL; }

bool there(const std::string& name) { return access(state::path(name).c_str(), F_OK) == 0; }

}  // namespace

int main() {
  void* map =
      mmap(nullptr, kBytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(map != MAP_FAILED, "mmap");
  const uintptr_t start = (reinterpret_cast<uintptr_t>(map) + kHuge - 1) / kHuge * kHuge;
  auto* words = reinterpret_cast<uint64_t*>(start);
  state::must(madvise(words, kBytes, MADV_HUGEPAGE), "HUGEPAGE");
  state::ready();
  while (!there("touch")) state::sleep_ms(4);
  for (size_t i = 0; i < kWords; ++i) words[i] = word_of(i);
  state::put("touched", "");
  size_t writes = 0;
  for (; !there("go"); state::sleep_ms(4)) {
    const std::string number = std::to_string(writes + 1);
    if (!there("write." + number)) continue;
    ++writes;
    for (size_t i = 0; i < kCount; ++i) words[i * kEach] = writes;
    state::put("written." + number, "");
  }
  for (size_t i = 0; i < kWords; ++i) {
    const uint64_t wanted = writes > 0 && i % kEach == 0 ? writes : word_of(i);
    CHECK(words[i] == wanted, "word %zu is %llx", i, static_cast<unsigned long long>(words[i]));
  }
  state::pass();
}
