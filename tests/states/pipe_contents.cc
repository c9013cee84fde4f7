// A pipe between two processes with bytes in it, its capacity and flags, and writes that come after
// the cut.
#include "tests/states/state.h"

int main() {
  int ends[2];
  state::must(pipe2(ends, O_CLOEXEC), "pipe2");
  state::must(fcntl(ends[0], F_SETPIPE_SZ, 128 * 1024), "F_SETPIPE_SZ");
  constexpr size_t kSize = 100 * 1000;
  static uint8_t data[kSize];
  state::fill(data, kSize, 14);
  state::must(write(ends[1], data, 1), "write");
  state::must(write(ends[1], data + 1, 5000), "write");
  state::must(write(ends[1], data + 5001, kSize - 5001), "write");
  state::must(fcntl(ends[1], F_SETFL, O_NONBLOCK), "F_SETFL");
  const pid_t pid = state::child([&ends] {
    close(ends[0]);
    state::wait_for_go();
    state::must(write(ends[1], "end", 3), "write in the child");
  });
  close(ends[1]);
  state::hold();
  state::reap(pid);
  CHECK(fcntl(ends[0], F_GETPIPE_SZ) == 128 * 1024, "the pipe's capacity changed");
  CHECK((fcntl(ends[0], F_GETFL) & O_NONBLOCK) == 0, "the read end became non-blocking");
  CHECK((fcntl(ends[0], F_GETFD) & FD_CLOEXEC) != 0, "FD_CLOEXEC was lost");
  static uint8_t now[kSize + 10];
  size_t got = 0;
  while (const auto part =
             static_cast<size_t>(state::must(read(ends[0], now + got, sizeof now - got), "read"))) {
    got += part;
  }
  CHECK(got == kSize + 3, "%zu bytes came through the pipe", got);
  state::check_filled(now, kSize, 14, "the bytes in the pipe");
  CHECK(memcmp(now + kSize, "end", 3) == 0, "the child's bytes are missing");
  state::pass();
}
