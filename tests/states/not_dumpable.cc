// A process that has denied persistence (PR_SET_DUMPABLE 0): to be refused by name, and to run on.
#include <sys/prctl.h>

#include "tests/states/state.h"

int main() {
  state::must(prctl(PR_SET_DUMPABLE, 0), "PR_SET_DUMPABLE");
  state::hold();
  CHECK(prctl(PR_GET_DUMPABLE) == 0, "the process became dumpable");
  state::pass();
}
