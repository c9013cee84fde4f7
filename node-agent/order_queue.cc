#include "node-agent/order_queue.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

namespace fermata::node_agent {
namespace {

bool ends_work(const Wake& wake) {
  switch (wake.kind) {
    case Wake::Kind::kLost:
    case Wake::Kind::kQuit:
      return true;
    case Wake::Kind::kOrder:
      return wake.order.has_roll_back() || wake.order.has_destroy();
    default:
      return false;
  }
}

}  // namespace

OrderQueue::OrderQueue() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void OrderQueue::put(Wake wake, bool first) {
  {
    const std::lock_guard lock(mutex_);
    if (ends_work(wake)) ++stoppers_;
    if (first) {
      waiting_.push_front(std::move(wake));
    } else {
      waiting_.push_back(std::move(wake));
    }
  }
  // Fails only when the counter is full, and then the thread is awake already.
  [[maybe_unused]] const int woken = eventfd_write(event_.get(), 1);
}

void OrderQueue::post(wire::Order order) { put({Wake::Kind::kOrder, std::move(order)}, false); }

void OrderQueue::lost() {
  {
    const std::lock_guard lock(mutex_);
    for (const Wake& wake : waiting_) {
      if (wake.kind == Wake::Kind::kOrder && ends_work(wake)) --stoppers_;
    }
    std::erase_if(waiting_, [](const Wake& wake) { return wake.kind == Wake::Kind::kOrder; });
  }
  put({Wake::Kind::kLost, {}}, false);
}

bool OrderQueue::lost_waits() {
  const std::lock_guard lock(mutex_);
  return std::any_of(waiting_.begin(), waiting_.end(),
                     [](const Wake& wake) { return wake.kind == Wake::Kind::kLost; });
}

void OrderQueue::quit() { put({Wake::Kind::kQuit, {}}, false); }

void OrderQueue::put_back(Wake wake) { put(std::move(wake), true); }

std::optional<Wake> OrderQueue::take() {
  const std::lock_guard lock(mutex_);
  if (waiting_.empty()) return std::nullopt;
  Wake wake = std::move(waiting_.front());
  waiting_.pop_front();
  if (ends_work(wake)) --stoppers_;
  return wake;
}

Wake OrderQueue::wait(int pidfd, std::optional<Time> deadline) {
  for (;;) {
    eventfd_t ignored = 0;
    eventfd_read(event_.get(), &ignored);
    if (std::optional<Wake> wake = take()) return *std::move(wake);
    int timeout = -1;
    if (deadline) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(
          *deadline - std::chrono::steady_clock::now());
      timeout = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 3'600'000));
    }
    std::array<pollfd, 2> sources{{{event_.get(), POLLIN, 0}, {pidfd, POLLIN, 0}}};
    const int ready = poll(sources.data(), sources.size(), timeout);
    if (std::optional<Wake> wake = take()) return *std::move(wake);
    if (ready > 0 && sources[1].revents != 0) return {Wake::Kind::kPodEnded, {}};
    if (deadline && std::chrono::steady_clock::now() >= *deadline) {
      return {Wake::Kind::kDeadline, {}};
    }
  }
}

}  // namespace fermata::node_agent
