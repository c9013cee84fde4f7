// PIDs and TIDs of a process, its threads and a child, also those that others have kept: kill,
// tgkill, pidfd.
#include <pthread.h>
#include <sys/pidfd.h>

#include <csignal>

#include "tests/states/state.h"

namespace {
volatile sig_atomic_t hits = 0;
void handler(int) { hits = hits + 1; }
}  // namespace

int main() {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(SIGUSR1, &action, nullptr);
  const pid_t pid = getpid();
  const pid_t parent = getppid();
  pid_t tid = 0;
  std::thread other([&tid] {
    __atomic_store_n(&tid, state::gettid(), __ATOMIC_RELEASE);
    state::wait_for_go();
    CHECK(state::gettid() == tid, "thread %d is now %d", tid, state::gettid());
    while (hits == 0) state::sleep_ms(1);
  });
  while (__atomic_load_n(&tid, __ATOMIC_ACQUIRE) == 0) state::sleep_ms(1);
  const pid_t child = state::child([] {
    while (true) pause();
  });
  state::hold();
  CHECK(getpid() == pid && syscall(SYS_getpid) == pid, "process %d is now %d", pid, getpid());
  CHECK(getppid() == parent, "the parent was %d, is %d", parent, getppid());
  CHECK(state::gettid() == pid, "the main thread's TID is %d", state::gettid());
  state::must(static_cast<int>(syscall(SYS_tgkill, pid, tid, SIGUSR1)), "tgkill of the kept TID");
  other.join();
  CHECK(hits == 1, "the signal came %d times", static_cast<int>(hits));
  state::must(kill(child, SIGKILL), "kill of the kept PID");
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status), "the child is another");
  const pid_t next = state::child([] {});
  CHECK(next != pid && next != parent, "a new child has the PID of somebody alive");
  state::reap(next);
  state::pass();
}
