// O_APPEND and other status flags; a write after the cut goes to the end, whoever wrote there
// before.
#include "tests/states/state.h"

int main() {
  const std::string name = state::path("log");
  const int log = state::must(
      open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_SYNC, 0644), "open");
  state::must(write(log, "before ", 7), "write");
  const int reader = state::must(open(name.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW), "open");
  state::hold();
  const int flags = fcntl(log, F_GETFL);
  CHECK((flags & O_ACCMODE) == O_WRONLY, "access mode %x", static_cast<unsigned>(flags));
  CHECK((flags & O_APPEND) != 0, "O_APPEND was lost");
  CHECK((flags & O_SYNC) == O_SYNC, "O_SYNC was lost");
  CHECK((fcntl(reader, F_GETFL) & (O_NONBLOCK | O_ACCMODE)) == O_NONBLOCK, "flags of the reader");
  const int second = state::must(open(name.c_str(), O_WRONLY | O_APPEND), "open");
  state::must(write(second, "other ", 6), "write");
  state::must(write(log, "after", 5), "write");
  char text[32] = {};
  CHECK(read(reader, text, sizeof text) == 18, "the log has another size");
  CHECK(strcmp(text, "before other after") == 0, "the log says '%s'", text);
  state::pass();
}
