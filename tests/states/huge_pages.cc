// A region of transparent huge pages, written in part, with one page given back and one made
// read-only. It has huge pages again afterwards.
#include <sys/mman.h>

#include "tests/states/state.h"

namespace {

/// AnonHugePages of smaps_rollup, in KiB (proc_pid_smaps(5)).
long huge_kib() {
  FILE* file = fopen("/proc/self/smaps_rollup", "r");
  CHECK(file != nullptr, "smaps_rollup");
  long kib = 0;
  for (char line[256]; fgets(line, sizeof line, file) != nullptr;) {
    if (sscanf(line, "AnonHugePages: %ld", &kib) == 1) break;
  }
  fclose(file);
  return kib;
}

}  // namespace

int main() {
  constexpr size_t kSize = size_t{8} << 20;
  auto* memory = static_cast<uint8_t*>(
      mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(memory != MAP_FAILED, "mmap");
  madvise(memory, kSize, MADV_HUGEPAGE);
  state::fill(memory, kSize, 12);
  madvise(memory + (3 << 20), 4096, MADV_DONTNEED);
  mprotect(memory + (5 << 20), 4096, PROT_READ);
  const long before = huge_kib();
  state::hold();
  // Those of a lazy restart are made when all memory has come.
  for (int i = 0; i < 500 && before > 0 && huge_kib() == 0; i++) state::sleep_ms(10);
  CHECK(before == 0 || huge_kib() > 0, "%ld KiB of huge pages are small ones", before);
  state::check_filled(memory, 3 << 20, 12, "huge pages");
  for (size_t i = 0; i < 4096; i++) {
    CHECK(memory[(3 << 20) + i] == 0, "a page that was given back is not zero");
  }
  const size_t rest = (3 << 20) + 4096;
  for (size_t at = rest; at < kSize; at++) {
    CHECK(memory[at] == state::pattern(at, 12), "byte %zu of the huge pages changed", at);
  }
  memset(memory, 1, 5 << 20);
  state::pass();
}
