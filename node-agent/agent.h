// All pods of the service on this node: hands the coordinator's orders to the pods they are for,
// and tells the coordinator what runs and what has ended. Pods run whatever becomes of it.
// Functions may be called from any thread; those named after LinkEvents are what the link calls.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "node-agent/held_terms.h"
#include "node-agent/pod_host.h"
#include "node-agent/pod_registry.h"
#include "node-agent/step_desk.h"
#include "proto/control.pb.h"

namespace fermata::node_agent {

struct AgentOptions {
  std::string node;
  std::filesystem::path run_dir = "/run/fermata";
  uint32_t slots = 1;
  uint64_t write_bandwidth = 0;  ///< PodToHold::write_bandwidth
  uint32_t precopy = 0;          ///< PodToHold::precopy
  /// Of checkpoints, where a Slurm step names none; empty: below its working folder.
  std::filesystem::path checkpoint_dir{};
  std::string compress = "none";  ///< PodToHold::compress
  /// Called every few seconds while ~Agent waits for memory that comes; not where none does. May be
  /// null.
  std::function<void()> stop_goes_on{};
};

class Agent {
 public:
  /// To the coordinator: CoordinatorLink::send().
  using Send = std::function<bool(wire::FromAgent)>;

  /// kBusy: another agent holds this run directory.
  static Result<std::unique_ptr<Agent>> create(AgentOptions options, Send send);
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;
  /// Sets are rolled back, restarts given up; pods that run, run on.
  ~Agent();

  /// Takes over what an agent before left. Before anything else.
  void adopt();

  wire::Hello hello() const;
  void attached(const wire::Welcome& welcome);
  void order(wire::Order order);
  void exchange(wire::ExchangeDown message);
  void lost();

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Told {
    wire::PodEnded report;
    Time at;
  };

  Agent(AgentOptions options, Send send, UniqueFd lock, wire::Hello self);
  Status open_step_desk();
  HeldTerms::Events term_events();
  /// What an agent that was killed held back of this pod's.
  void pass_terms_on(const PodId& pod, const std::set<uint32_t>& ranks);
  void offer(wire::StepOffer offer);
  PodHostEvents events();
  PodHostSettings settings_of_pods() const;
  std::shared_ptr<PodHost> host_of(const PodId& pod) const;
  std::shared_ptr<PodHost> new_host(const PodId& pod);
  std::vector<std::shared_ptr<PodHost>> all_hosts() const;
  void answer(const wire::Order& order, const Status& status) const;
  void pod_is_over(const PodId& pod, std::optional<wire::PodEnded> report);
  void tell(const wire::PodEnded& report);
  void collect();

  const AgentOptions options_;
  const Send send_;
  const UniqueFd lock_;
  const wire::Hello self_;  ///< what stays the same
  const PodRegistry registry_;

  std::unique_ptr<StepDesk> steps_;  ///< made by create()

  mutable std::mutex mutex_;
  std::map<PodId, std::shared_ptr<PodHost>> hosts_;  ///< guarded by mutex_
  std::set<PodId> over_;                             ///< guarded by mutex_: to be collected
  std::map<PodId, wire::PodEnded> untold_;           ///< guarded by mutex_
  std::map<PodId, Told> told_;                       ///< guarded by mutex_: of the last seconds
  uint64_t losses_ = 0;                              ///< guarded by mutex_: of streams
  bool ending_ = false;                              ///< guarded by mutex_
  std::condition_variable changed_;
  HeldTerms terms_;        ///< its events use what stands above
  std::thread collector_;  ///< a host cannot be destroyed by its own thread
};

}  // namespace fermata::node_agent
