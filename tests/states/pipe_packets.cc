// A pipe in packet mode (O_DIRECT) keeps the boundaries of what is in it.
#include "tests/states/state.h"

namespace {
constexpr size_t kSizes[] = {1, 100, 4096, 7};
}  // namespace

int main() {
  int ends[2];
  state::must(pipe2(ends, O_DIRECT | O_NONBLOCK), "pipe2");
  for (const size_t size : kSizes) {
    uint8_t packet[4096];
    state::fill(packet, size, static_cast<unsigned>(size));
    state::must(write(ends[1], packet, size), "write");
  }
  state::hold();
  CHECK((fcntl(ends[1], F_GETFL) & O_DIRECT) != 0, "packet mode was lost");
  for (const size_t size : kSizes) {
    uint8_t packet[4096];
    const ssize_t got = state::must(read(ends[0], packet, sizeof packet), "read");
    CHECK(got == static_cast<ssize_t>(size), "a packet of %zu came as %zd", size, got);
    state::check_filled(packet, size, static_cast<unsigned>(size), "a packet");
  }
  CHECK(read(ends[0], ends, 1) == -1 && errno == EAGAIN, "there is a packet too many");
  state::pass();
}
