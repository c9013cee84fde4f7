// Maps that are three for as long as what is between two parts of one is protected: once it is not,
// they are one again, and can be made longer (mremap(2): EFAULT where they are not one). What is
// between was written in the first and never in the second. Their ends are touched before what is
// between, last first, whenever the program runs: after a lazy restart that is the order in which
// they come.
#include <sys/mman.h>

#include "tests/states/state.h"

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPart = size_t{24} << 20;
constexpr size_t kSize = 2 * kPart + kPage;

uint8_t* make(bool written) {
  void* map =
      mmap(nullptr, 2 * kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(map != MAP_FAILED, "mmap");
  auto* memory = static_cast<uint8_t*>(map);
  state::must(mprotect(memory, kSize, PROT_READ | PROT_WRITE), "mprotect");
  state::fill(memory, kPart, 1);
  state::fill(memory + kPart + kPage, kPart, 2);
  if (written) memset(memory + kPart, 7, kPage);
  state::must(mprotect(memory + kPart, kPage, PROT_READ), "mprotect");
  state::must(munmap(memory + kSize, kSize), "munmap");
  return memory;
}

void touch(uint8_t* memory) {
  volatile uint8_t* bytes = memory;
  bytes[kSize - 1] = bytes[kSize - 1];
  bytes[0] = bytes[0];
}

void join_and_check(uint8_t* memory, uint8_t between) {
  state::must(mprotect(memory + kPart, kPage, PROT_READ | PROT_WRITE), "mprotect");
  void* at = mremap(memory, kSize, kSize + kPage, MREMAP_MAYMOVE);
  CHECK(at != MAP_FAILED, "three maps that were one are not one again");
  memory = static_cast<uint8_t*>(at);
  state::check_filled(memory, kPart, 1, "the first part");
  state::check_filled(memory + kPart + kPage, kPart, 2, "the second part");
  for (size_t i = 0; i < kPage; ++i) CHECK(memory[kPart + i] == between, "byte %zu between", i);
}

}  // namespace

int main() {
  uint8_t* const written = make(true);
  uint8_t* const never = make(false);
  state::ready();
  while (!state::go()) {
    touch(written);
    touch(never);
    state::sleep_ms(1);
  }
  join_and_check(written, 7);
  join_and_check(never, 0);
  state::pass();
}
