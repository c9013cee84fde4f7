// Sixteen threads with thread-local storage, a mutex and a condition variable, in turns, before and
// after.
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "tests/states/state.h"

namespace {
constexpr int kThreads = 16;
std::mutex mutex;
std::condition_variable changed;
int turn = 0;
std::atomic<bool> stop = false;
thread_local long mine = 0;

void take_turns(int index) {
  const pid_t tid = state::gettid();
  char name[16];
  snprintf(name, sizeof name, "turner %d", index);
  pthread_setname_np(pthread_self(), name);
  mine = 1000L * index;
  for (long round = 1;; round++) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [index] { return turn % kThreads == index; });
    const bool last = stop;
    CHECK(mine == 1000L * index + round - 1, "thread %d: its thread-local value is %ld", index,
          mine);
    mine++;
    turn++;
    changed.notify_all();
    if (last) break;
  }
  char now[16];
  pthread_getname_np(pthread_self(), now, sizeof now);
  CHECK(strcmp(name, now) == 0, "thread %d is called %s", index, now);
  CHECK(state::gettid() == tid, "thread %d changed its TID from %d to %d", index, tid,
        state::gettid());
}
}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) threads.emplace_back(take_turns, i);
  state::hold();
  const auto turn_now = [] {
    const std::lock_guard lock(mutex);
    return turn;
  };
  const int before = turn_now();
  for (const int64_t until = state::now_ms() + 5000 + state::late_ms(); turn_now() == before;) {
    CHECK(state::now_ms() < until, "the threads stand still");
    state::sleep_ms(1);
  }
  {
    const std::lock_guard lock(mutex);
    // All must see it in the same round: each then takes exactly one last turn.
    while (turn % kThreads != 0) {
      mutex.unlock();
      sched_yield();
      mutex.lock();
    }
    stop = true;
  }
  for (std::thread& thread : threads) thread.join();
  state::pass();
}
