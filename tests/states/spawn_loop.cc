// posix_spawn (vfork inside) and system() in a loop while the cut falls: every child runs and gives
// its code.
#include <spawn.h>

#include "tests/states/state.h"

namespace {
void spawn(int code) {
  const std::string text = "exit " + std::to_string(code);
  char shell[] = "/bin/sh";
  char flag[] = "-c";
  std::string command = text;
  char* const argv[] = {shell, flag, command.data(), nullptr};
  pid_t pid = 0;
  const int error = posix_spawn(&pid, shell, nullptr, nullptr, argv, environ);
  CHECK(error == 0, "posix_spawn: %s", strerror(error));
  state::reap(pid, code);
}
}  // namespace

int main() {
  for (int round = 0; !state::go(); round++) {
    spawn(round % 100);
    const int status = system("exit 3");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3, "system() gave %x",
          static_cast<unsigned>(status));
    if (round == 3) state::ready();
  }
  state::pass();
}
