// What waits for a pod's thread: orders, the loss of the coordinator, the end of the agent. Put in
// by any thread, taken out by one.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <mutex>
#include <optional>

#include "common/unique_fd.h"
#include "proto/control.pb.h"

namespace fermata::node_agent {

/// Why the thread woke up.
struct Wake {
  enum class Kind {
    kOrder,
    kLost,      ///< the coordinator: nobody waits for answers to earlier orders
    kQuit,      ///< the agent ends
    kPodEnded,  ///< PID 1 has ended
    kDeadline
  };
  Kind kind = Kind::kDeadline;
  wire::Order order;  ///< of kOrder
};

class OrderQueue {
 public:
  using Time = std::chrono::steady_clock::time_point;

  OrderQueue();
  OrderQueue(const OrderQueue&) = delete;
  OrderQueue& operator=(const OrderQueue&) = delete;

  void post(wire::Order order);
  /// Orders that wait are dropped.
  void lost();
  void quit();
  /// Whether something waits that ends what is in work: roll back, destroy, lost, quit. A flag: may
  /// be looked at often.
  bool stop() const { return stoppers_ > 0; }

  /// Whether the loss of the coordinator is still to be taken out.
  bool lost_waits();

  /// Waits for the next thing; what was put in comes before the end of the pod (`pidfd`, -1: none).
  Wake wait(int pidfd, std::optional<Time> deadline);
  /// It is what wait() gives next.
  void put_back(Wake wake);

 private:
  std::optional<Wake> take();
  void put(Wake wake, bool first);

  std::mutex mutex_;
  std::deque<Wake> waiting_;  ///< guarded by mutex_
  std::atomic<int> stoppers_ = 0;
  UniqueFd event_;
};

}  // namespace fermata::node_agent
