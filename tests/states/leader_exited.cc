// The main thread has ended by pthread_exit; the process lives on in another thread.
#include <pthread.h>

#include "tests/states/state.h"

int main() {
  const pthread_t leader = pthread_self();
  std::thread([leader] {
    pthread_join(leader, nullptr);
    state::hold();
    CHECK(getpid() != state::gettid(), "the second thread became the first");
    state::pass();
  }).detach();
  pthread_exit(nullptr);
}
