// User, groups and capabilities as the program sees them, no_new_privs, and a child that has
// dropped what it had.
#include <linux/capability.h>
#include <sys/prctl.h>

#include <fstream>
#include <sstream>

#include "tests/states/state.h"

namespace {
/// The lines of /proc/self/status that say who we are.
std::string who() {
  std::ifstream status("/proc/self/status");
  std::string all;
  for (std::string line; std::getline(status, line);) {
    for (const char* name : {"Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:"}) {
      if (line.starts_with(name)) all += line + "; ";
    }
  }
  return all;
}

void check(const std::string& before, const char* which) {
  CHECK(who() == before, "%s: was [%s], is [%s]", which, before.c_str(), who().c_str());
}
}  // namespace

int main() {
  int ends[2];
  state::must(pipe(ends), "pipe");
  const pid_t pid = state::child([&ends] {
    state::must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    if (geteuid() == 0) {
      __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
      __user_cap_data_struct data[2]{};
      data[0].permitted = 1U << CAP_KILL | 1U << CAP_CHOWN;
      data[0].effective = 1U << CAP_KILL;
      state::must(static_cast<int>(syscall(SYS_capset, &header, data)), "capset");
    }
    const std::string before = who();
    state::must(write(ends[1], "r", 1), "write");
    state::wait_for_go();
    check(before, "child");
  });
  char byte = 0;
  state::must(read(ends[0], &byte, 1), "read");
  const std::string before = who();
  state::hold();
  check(before, "parent");
  state::reap(pid);
  state::pass();
}
