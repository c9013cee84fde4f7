// Locked memory stays locked: mlock, and mlock2 with MLOCK_ONFAULT on a range partly touched.
#include <sys/mman.h>

#include <fstream>

#include "tests/states/state.h"

namespace {
long locked_kb() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmLck:")) return std::stol(line.substr(6));
  }
  return -1;
}
}  // namespace

int main() {
  constexpr size_t kSize = 16 * 4096;
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* lazy = static_cast<uint8_t*>(
      mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(memory != MAP_FAILED && lazy != MAP_FAILED, "mmap");
  state::fill(memory, kSize, 8);
  state::must(mlock(memory, kSize), "mlock");
  state::must(mlock2(lazy, kSize, MLOCK_ONFAULT), "mlock2");
  lazy[0] = 1;
  const long before = locked_kb();
  CHECK(before >= 128, "%ld KiB are locked", before);
  state::hold();
  state::check_filled(memory, kSize, 8, "locked memory");
  CHECK(lazy[0] == 1 && lazy[4096] == 0, "lazily locked memory changed");
  const long after = locked_kb();
  CHECK(after == before, "%ld KiB were locked, %ld are now", before, after);
  state::must(munlock(memory, kSize), "munlock");
  state::pass();
}
