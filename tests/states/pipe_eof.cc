// Pipes with one side closed: bytes and then end-of-file for a reader, SIGPIPE and EPIPE for a
// writer.
#include <poll.h>

#include <csignal>

#include "tests/states/state.h"

int main() {
  signal(SIGPIPE, SIG_IGN);
  int ended[2];
  int broken[2];
  state::must(pipe(ended), "pipe");
  state::must(pipe(broken), "pipe");
  state::must(write(ended[1], "last", 4), "write");
  close(ended[1]);
  close(broken[0]);
  state::hold();
  char text[8] = {};
  CHECK(read(ended[0], text, sizeof text) == 4 && strcmp(text, "last") == 0, "read '%s'", text);
  CHECK(read(ended[0], text, sizeof text) == 0, "no end-of-file");
  pollfd entry{ended[0], POLLIN, 0};
  CHECK(poll(&entry, 1, 0) == 1 && (entry.revents & POLLHUP) != 0, "poll says %x", entry.revents);
  CHECK(write(broken[1], "x", 1) == -1 && errno == EPIPE, "a write without reader succeeded");
  state::pass();
}
