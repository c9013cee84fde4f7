// Blocked in write(2) on a full pipe with half of the bytes still in the writer's hands: all come,
// once, in order.
#include <vector>

#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  const auto room = static_cast<size_t>(state::must(fcntl(ends[1], F_GETPIPE_SZ), "F_GETPIPE_SZ"));
  const size_t total = room * 2 + 123;
  std::vector<uint8_t> data(total);
  state::fill(data.data(), total, 1);
  std::vector<uint8_t> copy(total);
  std::thread reader = state::after_go(SYS_write, [&ends, &copy, total] {
    for (size_t at = 0; at < total;) {
      at += static_cast<size_t>(state::must(read(ends[0], copy.data() + at, total - at), "read"));
    }
  });
  // A write that had moved some bytes may come back short (pipe(7)), as after any signal: then go
  // on.
  for (size_t at = 0; at < total;) {
    const auto wrote =
        static_cast<size_t>(state::must(write(ends[1], data.data() + at, total - at), "write"));
    CHECK(wrote > 0, "a write of %zu wrote nothing", total - at);
    at += wrote;
  }
  reader.join();
  state::check_filled(copy.data(), total, 1, "what came through the pipe");
  state::pass();
}
