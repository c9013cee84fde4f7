// A process that runs with a personality (no address randomisation): addresses and personality
// stay.
#include <sys/personality.h>

#include "tests/states/state.h"

int main(int, char** argv) {
  if ((personality(0xffffffff) & ADDR_NO_RANDOMIZE) == 0) {
    state::must(personality(ADDR_NO_RANDOMIZE), "personality");
    execv("/proc/self/exe", argv);
    state::fail("execv");
  }
  int local = 0;
  void* const stack = &local;
  void* const heap_end = sbrk(0);
  state::hold();
  const int now = personality(0xffffffff);
  CHECK((now & ADDR_NO_RANDOMIZE) != 0, "the personality is %x", static_cast<unsigned>(now));
  CHECK(stack == &local && heap_end == sbrk(0), "addresses moved");
  state::pass();
}
