// Blocked in read(2) on an empty pipe.
#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  std::thread writer = state::after_go(
      SYS_read, [&ends] { state::must(write(ends[1], "Fermata", 7), "write to the pipe"); });
  char text[16] = {};
  const ssize_t got = read(ends[0], text, sizeof text);
  CHECK(got == 7 && memcmp(text, "Fermata", 7) == 0, "read returned %zd", got);
  CHECK(state::go(), "read returned before the write");
  writer.join();
  state::pass();
}
