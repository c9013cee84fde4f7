// A robust mutex in memory shared by two processes; its owner is killed after the cut, and the
// kernel must find the mutex through the robust list of the rebuilt process.
#include <pthread.h>
#include <sys/mman.h>

#include <csignal>

#include "tests/states/state.h"

namespace {
struct Shared {
  pthread_mutex_t mutex;
  int locked;
};
}  // namespace

int main() {
  auto* shared = static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  CHECK(shared != MAP_FAILED, "mmap");
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&shared->mutex, &kind);
  const pid_t pid = state::child([shared] {
    pthread_mutex_lock(&shared->mutex);
    __atomic_store_n(&shared->locked, 1, __ATOMIC_RELEASE);
    while (true) pause();
  });
  while (__atomic_load_n(&shared->locked, __ATOMIC_ACQUIRE) == 0) state::sleep_ms(1);
  state::hold();
  CHECK(pthread_mutex_trylock(&shared->mutex) == EBUSY, "the mutex is not held any more");
  state::must(kill(pid, SIGKILL), "kill");
  int status = 0;
  state::must(waitpid(pid, &status, 0), "waitpid");
  const int result = pthread_mutex_lock(&shared->mutex);
  CHECK(result == EOWNERDEAD, "locking after the owner was killed returned %d", result);
  state::pass();
}
