// A robust mutex held across the cut by a thread that ends after it without unlocking: the next
// owner is told.
#include <pthread.h>

#include "tests/states/state.h"

int main() {
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_t mutex;
  pthread_mutex_init(&mutex, &kind);
  bool locked = false;
  std::thread owner([&mutex, &locked] {
    pthread_mutex_lock(&mutex);
    __atomic_store_n(&locked, true, __ATOMIC_RELEASE);
    state::wait_for_go();
  });
  while (!__atomic_load_n(&locked, __ATOMIC_ACQUIRE)) state::sleep_ms(1);
  state::ready();
  const int result = pthread_mutex_lock(&mutex);
  CHECK(state::go(), "the mutex was free before its owner ended");
  CHECK(result == EOWNERDEAD, "locking after the owner's death returned %d", result);
  CHECK(pthread_mutex_consistent(&mutex) == 0, "the mutex cannot be made consistent");
  CHECK(pthread_mutex_unlock(&mutex) == 0, "the mutex cannot be unlocked");
  owner.join();
  state::pass();
}
