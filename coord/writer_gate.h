// How many pods write at a time, over all jobs: so that sets of many jobs at once do not flood the
// file system. Who comes first writes first. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace fermata::coord {

class WriterGate {
 public:
  /// `at_once` 0: no limit.
  explicit WriterGate(size_t at_once);
  WriterGate(const WriterGate&) = delete;
  WriterGate& operator=(const WriterGate&) = delete;

  /// The right to write, until it is destroyed: on any thread, also before the gate's user is done
  /// waiting.
  class Pass {
   public:
    explicit Pass(WriterGate& gate) : gate_(gate) {}
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;
    ~Pass() { gate_.leave(); }

   private:
    WriterGate& gate_;
  };
  using Start = std::function<void(std::shared_ptr<Pass>)>;

  /// A place in the queue, given up when it is destroyed.
  class Place {
   public:
    Place() = default;
    Place(WriterGate* gate, uint64_t number) : gate_(gate), number_(number) {}
    Place(Place&& other) noexcept;
    Place& operator=(Place&& other) noexcept;
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ~Place();

   private:
    WriterGate* gate_ = nullptr;
    uint64_t number_ = 0;
  };

  /// Calls `start` when it may: at once, on the calling thread, or later, on the gate's own. All
  /// places and passes have to be gone before the gate is.
  Place enter(Start start);

 private:
  struct Waiting {
    uint64_t number = 0;
    Start start;
  };
  void leave();
  void forget(uint64_t number);
  void let_in(const std::stop_token& stop);

  const size_t at_once_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Waiting> queue_;
  size_t inside_ = 0;
  uint64_t last_ = 0;
  std::jthread thread_;  // the last member: it ends before the others do
};

}  // namespace fermata::coord
