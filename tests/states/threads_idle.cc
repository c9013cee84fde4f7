// Threads blocked for ever in a condition variable, a join, a read and a lock, all woken after go.
#include <condition_variable>
#include <mutex>

#include "tests/states/state.h"

int main() {
  std::mutex held;
  std::mutex mutex;
  std::condition_variable changed;
  bool open = false;
  int ends[2];
  state::must(pipe(ends), "pipe");
  held.lock();
  std::thread locker([&held] { const std::lock_guard lock(held); });
  std::thread joiner([&locker] { locker.join(); });
  std::thread waiter([&] {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&open] { return open; });
  });
  std::thread reader([&ends] {
    char byte = 0;
    CHECK(read(ends[0], &byte, 1) == 1 && byte == 'y', "the reader got something else");
  });
  state::sleep_ms(50);
  state::hold();
  held.unlock();
  {
    const std::lock_guard lock(mutex);
    open = true;
  }
  changed.notify_one();
  state::must(write(ends[1], "y", 1), "write");
  joiner.join();
  waiter.join();
  reader.join();
  state::pass();
}
