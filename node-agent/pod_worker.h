// The inside of a PodHost: what its thread does. Private functions are that thread's; what others
// reach is behind mutex_ or the queue.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/credentials.h"
#include "node-agent/addresses.h"
#include "node-agent/exchange_folder.h"
#include "node-agent/isolation/isolation.h"
#include "node-agent/order_queue.h"
#include "node-agent/pod/pod.h"
#include "node-agent/pod_agent.h"
#include "node-agent/pod_host.h"
#include "node-agent/rank_ends.h"
#include "node-agent/restore.h"
#include "node-agent/step_desk.h"

namespace fermata::node_agent {

class PodWorker {
 public:
  /// `adopt`: the record is of a pod that stands. Else it holds the id alone.
  PodWorker(PodRecord record, bool adopt, PodHostSettings settings, PodHostEvents events);
  PodWorker(const PodWorker&) = delete;
  PodWorker& operator=(const PodWorker&) = delete;
  ~PodWorker();

  void order(wire::Order order);
  void deliver(wire::ExchangeDown message);
  void coordinator_lost() { queue_.lost(); }
  void coordinator_back();
  std::optional<wire::LivingPod> living() const;
  void signal_rank(uint32_t rank, int signo);
  void kill();

 private:
  using Time = std::chrono::steady_clock::time_point;
  using Fill = std::function<void(wire::Done&)>;

  /// By how much the slowest agent's answer, and what follows from it, may come after our own.
  static constexpr std::chrono::seconds kBarrierMargin{30};

  /// An order that is carried out.
  struct Open {
    uint64_t id = 0;
    Time began;
    Time deadline;
    /// Until when the coordinator can be expected to say more, once it was answered.
    Time next_by() const;
  };
  static Open open(const wire::Order& order);

  // pod_worker.cc: the loop, and how a pod ends
  void run();
  void handle(const wire::Order& order);
  void answer(const Open& open, const Status& status, const Fill& fill = nullptr);
  void answer(const wire::Order& order, const Status& status) { answer(open(order), status); }
  void destroy(const wire::Order& order);
  void pod_has_ended();
  void answer_gone(const wire::Order& order);
  void over(std::optional<wire::PodEnded> report);

  // pod_worker_sets.cc: sets of a pod that runs
  void phase(const wire::Order& order);
  Status carry_out(const wire::PhaseOrder& phase, const Open& open);
  void report_on(wire::Done& done) const;
  void able(const wire::Order& order);
  /// kConflict: Slurm has suspended the job, or is about to.
  Status check_runs() const;
  void roll_back();
  void end_job(const wire::Order& order);

  // pod_worker_start.cc: how a pod comes to be
  Status launch(const wire::LaunchOrder& launch);
  Status adopt();
  Status take_over();
  void know_ends();
  /// Ends what there is of a pod that cannot be held.
  void clear_away();
  /// In a Slurm step: its tasks that are the ranks of this pod. nullptr: it is none.
  Result<std::unique_ptr<StepPart>> step_part(bool stubs);
  ExchangeFolder::Sender exchange_sender() const;
  void know_step(const wire::StepShape& shape, const Credentials& owner, const std::string& folder);
  pod::GroupSpec group_spec();
  Status put_record(const pod::Pod& pod);
  /// The pod runs: from here on it is ours, unless this fails.
  bool abandoned() const;
  Status hold(pod::Pod& pod);
  /// hold(), for a pod that was just made: it is destroyed where that fails, and where the
  /// coordinator was lost before a Hello could name it.
  Status hold_new(pod::Pod pod);
  void destroy_new(pod::Pod& pod);
  /// The pod has ended: nobody waits for its memory any more.
  void no_more_memory();
  /// A start came to nothing.
  void never_stood();
  void forget();
  /// Why it ended, when Slurm has sent this to it.
  static std::string by_signal(int signo);

  // pod_worker_restore.cc
  /// Answers its three orders itself.
  void restore(const wire::Order& order);
  RestoreOrder restore_order(const wire::RestoreOrder& wanted);
  Result<wire::Order> wait_for(wire::Order::KindCase wanted, Time deadline);
  Result<image::AddressMap> exchange_addresses(const image::AddressMap& own);
  Status wait_for_go(const StandingPod& standing);

  const PodHostSettings settings_;
  const PodHostEvents events_;
  const PodRegistry registry_;
  PodRecord record_;
  bool adopt_ = false;
  bool over_ = false;
  bool stays_ = false;  ///< what could not be ended: its record is kept

  std::optional<pod::Pod> pod_;
  std::optional<isolation::Isolation> isolation_;
  /// Has the pod's memory come, after a lazy restart. Goes once the pod has ended.
  std::unique_ptr<LazyRestore> lazy_;
  std::unique_ptr<PodAgent> agent_;

  // A set in work.
  uint64_t set_ = 0;                ///< its CRID; 0: none
  std::optional<Time> next_phase_;  ///< when it has to come
  std::optional<Time> nudge_at_;    ///< unless the next phase comes first
  Time cut_until_;

  // A restart in work.
  std::optional<Open> open_;  ///< the order that is to be answered
  Time barrier_by_;           ///< when the next order has to come
  AddressesThen then_;
  std::vector<NodeAddress> node_;
  std::optional<image::AddressMap> told_;
  image::AddressMap all_;

  OrderQueue queue_;
  mutable std::mutex mutex_;
  bool closed_ = false;          ///< guarded by mutex_: the pod is over
  std::filesystem::path group_;  ///< guarded by mutex_: what destroy kills at once
  UniqueFd pidfd_;               ///< guarded by mutex_: whom signals go to
  bool abandoned_ = false;       ///< guarded by mutex_: kill() was called
  /// Guarded by mutex_: by a SIGTSTP of Slurm's; so `scontrol suspend` begins.
  bool stopped_ = false;
  int ending_signal_ = 0;                     ///< guarded by mutex_: Slurm's last word, if any
  std::shared_ptr<RankEnds> ends_;            ///< guarded by mutex_, written by the thread
  std::optional<wire::LivingPod> living_;     ///< guarded by mutex_
  std::unique_ptr<ExchangeFolder> exchange_;  ///< guarded by mutex_, written by the thread

  std::thread thread_;  ///< the last member: it uses the others
};

}  // namespace fermata::node_agent
