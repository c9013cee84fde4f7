#include "node-agent/engine/twin_ends.h"

#include <signal.h>
#include <time.h>

#include "common/background.h"
#include "node-agent/engine/ptrace.h"

namespace fermata::engine {
namespace {

Background& twin_ends() {
  static Background ends;
  return ends;
}

void see_to(pid_t pid) {
  reap_tracees({pid});
  constexpr int kMilliseconds = 300;
  for (int i = 0; i < kMilliseconds && ::kill(pid, 0) == 0; ++i) {
    const timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace

void end_twin(pid_t pid) {
  ::kill(pid, SIGKILL);
  twin_ends().add([pid] { see_to(pid); });
}

void wait_for_twin_ends() { twin_ends().wait(); }

}  // namespace fermata::engine
