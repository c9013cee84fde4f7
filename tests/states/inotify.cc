// An inotify watch with an event unread: held, or refused by name.
#include <sys/inotify.h>

#include "tests/states/state.h"

int main() {
  const int fd = state::must(inotify_init1(IN_NONBLOCK), "inotify_init1");
  const std::string watched = state::path("watched");
  state::put("watched", "x");
  const int watch = state::must(inotify_add_watch(fd, watched.c_str(), IN_MODIFY), "add_watch");
  state::hold();
  const int file = state::must(open(watched.c_str(), O_WRONLY), "open");
  state::must(write(file, "yy", 2), "write");
  alignas(inotify_event) char buffer[4096];
  state::must(read(fd, buffer, sizeof buffer), "read of the inotify descriptor");
  const auto* event = reinterpret_cast<const inotify_event*>(buffer);
  CHECK(event->wd == watch && event->mask == IN_MODIFY, "event %x of watch %d", event->mask,
        event->wd);
  state::pass();
}
