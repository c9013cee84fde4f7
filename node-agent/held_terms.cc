#include "node-agent/held_terms.h"

#include <algorithm>
#include <utility>

namespace fermata::node_agent {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

HeldTerms::HeldTerms(milliseconds patience, Events events)
    : patience_(patience), events_(std::move(events)) {
  thread_ = std::thread([this] { work(); });
}

HeldTerms::~HeldTerms() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    changed_.notify_all();
  }
  thread_.join();
  coordinator_lost();
}

void HeldTerms::pass_on(const PodId& pod, const std::set<uint32_t>& ranks) {
  for (const uint32_t rank : ranks) events_.pass_on(pod, rank);
  const std::lock_guard lock(mutex_);
  const auto found = pods_.find(pod);  // another one may have come meanwhile
  events_.note(pod, found == pods_.end() ? std::set<uint32_t>() : found->second.ranks);
}

std::set<uint32_t> HeldTerms::take(const PodId& pod) {
  const std::lock_guard lock(mutex_);
  const auto found = pods_.find(pod);
  if (found == pods_.end()) return {};
  std::set<uint32_t> ranks = std::move(found->second.ranks);
  pods_.erase(found);
  return ranks;
}

void HeldTerms::signalled(const PodId& pod, uint32_t rank) {
  {
    const std::lock_guard lock(mutex_);
    const auto [found, first] = pods_.try_emplace(pod);
    if (found->second.ranks.insert(rank).second) events_.note(pod, found->second.ranks);
    if (!first) return;
    found->second.since = steady_clock::now();
    found->second.until = found->second.since + patience_;
    changed_.notify_all();
  }
  if (!events_.ask(pod)) pass_on(pod, take(pod));
}

bool HeldTerms::decided(const PodId& pod, milliseconds hold) {
  if (hold <= milliseconds::zero()) {
    const std::set<uint32_t> ranks = take(pod);
    if (!ranks.empty()) pass_on(pod, ranks);
    return !ranks.empty();
  }
  const std::lock_guard lock(mutex_);
  const auto found = pods_.find(pod);
  if (found == pods_.end()) return false;
  Held& held = found->second;
  held.until = (std::exchange(held.told, true) ? steady_clock::now() : held.since) + hold;
  changed_.notify_all();
  return true;
}

void HeldTerms::coordinator_lost() {
  std::map<PodId, Held> held;
  {
    const std::lock_guard lock(mutex_);
    held.swap(pods_);
  }
  for (const auto& [pod, one] : held) pass_on(pod, one.ranks);
}

void HeldTerms::forget(const PodId& pod) {
  const std::lock_guard lock(mutex_);
  pods_.erase(pod);
}

void HeldTerms::work() {
  std::unique_lock lock(mutex_);
  while (!ends_) {
    const Time now = steady_clock::now();
    Time next = Time::max();
    std::map<PodId, Held> due;
    for (auto it = pods_.begin(); it != pods_.end();) {
      if (it->second.until <= now) {
        due.insert(pods_.extract(it++));
      } else {
        next = std::min(next, it++->second.until);
      }
    }
    if (!due.empty()) {
      lock.unlock();
      for (const auto& [pod, held] : due) pass_on(pod, held.ranks);
      lock.lock();
    } else if (next == Time::max()) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, next);
    }
  }
}

}  // namespace fermata::node_agent
