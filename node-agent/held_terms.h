// A SIGTERM of Slurm's that ranks do not have yet: as long as the coordinator finds out whether a
// last set fits in the time that Slurm leaves, and takes it. Whatever becomes of that, the ranks
// get their signal: when the coordinator says so, when it is lost, when it says nothing, when this
// agent is stopped, and where it is killed from the next one, which finds noted what was held
// (PodRegistry). All functions: any thread. What is passed on is passed on without a lock held.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "common/ids.h"

namespace fermata::node_agent {

class HeldTerms {
 public:
  struct Events {
    /// Tells the coordinator of the first one of a pod; false: it cannot be told now.
    std::function<bool(const PodId& pod)> ask;
    std::function<void(const PodId& pod, uint32_t rank)> pass_on;
    /// Notes what is held of a pod, before the coordinator is asked and once all have it. Called
    /// with the lock held.
    std::function<void(const PodId& pod, const std::set<uint32_t>& ranks)> note;
  };
  /// `patience`: for the coordinator's first word.
  HeldTerms(std::chrono::milliseconds patience, Events events);
  HeldTerms(const HeldTerms&) = delete;
  HeldTerms& operator=(const HeldTerms&) = delete;
  /// What is held is passed on: its ranks live longer than this agent.
  ~HeldTerms();

  /// Slurm has sent SIGTERM to this rank.
  void signalled(const PodId& pod, uint32_t rank);
  /// The coordinator's word: to be held for so long; 0: not any more. Its first word counts from
  /// the signal, so that what it takes to find out is bounded from there; others count from now.
  /// False: nothing is held, or not any more.
  bool decided(const PodId& pod, std::chrono::milliseconds hold);
  void coordinator_lost();
  /// The pod has ended.
  void forget(const PodId& pod);

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Held {
    std::set<uint32_t> ranks;
    Time since;
    Time until;
    bool told = false;  ///< the coordinator has said something
  };
  std::set<uint32_t> take(const PodId& pod);
  void pass_on(const PodId& pod, const std::set<uint32_t>& ranks);
  void work();

  const std::chrono::milliseconds patience_;
  const Events events_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<PodId, Held> pods_;
  bool ends_ = false;
  std::thread thread_;  ///< the last member: it uses the others
};

}  // namespace fermata::node_agent
