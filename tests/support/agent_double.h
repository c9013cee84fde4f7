// An agent's outside for tests of the link to the coordinator: a CoordinatorLink whose events are
// recorded and whose orders are kept until the test takes them. Thread-safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/coordinator_link.h"

namespace fermata::node_agent {

class AgentDouble {
 public:
  AgentDouble(std::string node, LinkOptions options, Authenticator& authenticator)
      : node_(std::move(node)), link_(std::move(options), authenticator, events()) {
    link_.start();
  }

  CoordinatorLink& link() { return link_; }

  /// Waits for "hello", "attached" or "lost"; false when it does not happen within half a minute.
  bool happened(const std::string& event, int times = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(
        lock, kPatience, [&] { return std::count(seen_.begin(), seen_.end(), event) >= times; });
  }
  int count(const std::string& event) {
    const std::lock_guard lock(mutex_);
    return static_cast<int>(std::count(seen_.begin(), seen_.end(), event));
  }
  /// Why the coordinator was lost last.
  Status why_lost() {
    const std::lock_guard lock(mutex_);
    return why_lost_;
  }
  /// The next order that came.
  std::optional<wire::Order> order() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return !orders_.empty(); })) return std::nullopt;
    wire::Order order = std::move(orders_.front());
    orders_.pop_front();
    return order;
  }
  std::optional<wire::ExchangeDown> exchange() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return !exchanges_.empty(); })) {
      return std::nullopt;
    }
    wire::ExchangeDown message = std::move(exchanges_.front());
    exchanges_.pop_front();
    return message;
  }
  bool done(uint64_t order, const std::string& note = "") {
    wire::FromAgent message;
    message.mutable_done()->set_order(order);
    message.mutable_done()->add_notes(note);
    return link_.send(std::move(message));
  }

 private:
  static constexpr std::chrono::seconds kPatience{30};

  LinkEvents events() {
    return {
        .hello =
            [this] {
              note("hello");
              wire::Hello hello;
              hello.set_node(node_);
              return hello;
            },
        .attached = [this](const wire::Welcome&) { note("attached"); },
        .order =
            [this](wire::Order order) {
              const std::lock_guard lock(mutex_);
              orders_.push_back(std::move(order));
              changed_.notify_all();
            },
        .exchange =
            [this](wire::ExchangeDown message) {
              const std::lock_guard lock(mutex_);
              exchanges_.push_back(std::move(message));
              changed_.notify_all();
            },
        .lost =
            [this](const Status& why) {
              {
                const std::lock_guard lock(mutex_);
                why_lost_ = why;
              }
              note("lost");
            },
    };
  }
  void note(const std::string& event) {
    const std::lock_guard lock(mutex_);
    seen_.push_back(event);
    changed_.notify_all();
  }

  const std::string node_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> seen_;
  std::deque<wire::Order> orders_;
  std::deque<wire::ExchangeDown> exchanges_;
  Status why_lost_;
  CoordinatorLink link_;  ///< last: it ends before what its events use
};

}  // namespace fermata::node_agent
