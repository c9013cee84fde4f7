// The main stack grows after the cut as before it, by deep recursion over pages never touched; so
// does a thread's.
#include "tests/states/state.h"

namespace {
__attribute__((noinline)) unsigned deep(unsigned depth) {
  volatile uint8_t frame[4000];
  frame[0] = static_cast<uint8_t>(depth);
  frame[3999] = static_cast<uint8_t>(depth >> 8);
  const unsigned below = depth == 0 ? 0 : deep(depth - 1);
  CHECK(frame[0] == static_cast<uint8_t>(depth) && frame[3999] == static_cast<uint8_t>(depth >> 8),
        "a frame at depth %u was overwritten", depth);
  return below + 1;
}
}  // namespace

int main() {
  CHECK(deep(20) == 21, "recursion before the cut");
  std::thread other([] {
    state::wait_for_go();
    CHECK(deep(1000) == 1001, "recursion in a thread");
  });
  state::hold();
  CHECK(deep(1500) == 1501, "recursion over 6 MB of the main stack");
  other.join();
  state::pass();
}
