// A named pipe with contents, opened by two processes; the name still leads to the same pipe.
#include <poll.h>
#include <sys/stat.h>

#include "tests/states/state.h"

int main() {
  const std::string name = state::path("fifo");
  state::must(mkfifo(name.c_str(), 0644), "mkfifo");
  const int both = state::must(open(name.c_str(), O_RDWR | O_NONBLOCK), "open");
  const pid_t pid = state::child([&name, both] {
    close(both);
    const int writer = state::must(open(name.c_str(), O_WRONLY), "open in the child");
    state::must(write(writer, "one ", 4), "write");
    state::wait_for_go();
    state::must(write(writer, "two ", 4), "write");
  });
  char text[32] = {};
  pollfd entry{both, POLLIN, 0};
  CHECK(poll(&entry, 1, 5000) == 1, "nothing came through the fifo");
  state::hold();
  state::reap(pid);
  const int late = state::must(open(name.c_str(), O_WRONLY | O_NONBLOCK), "open after the cut");
  state::must(write(late, "three", 5), "write");
  CHECK(read(both, text, sizeof text) == 13, "another number of bytes came through the fifo");
  CHECK(strcmp(text, "one two three") == 0, "the fifo held '%s'", text);
  state::pass();
}
