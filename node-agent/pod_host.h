// One pod of the service on a thread of its own: ptrace(2) ties stopped processes to a thread, and
// file-system rights are a thread's too. Orders of the coordinator are carried out one after the
// other, each answered once; the pod runs whatever becomes of coordinator and agent.
//
// All functions may be called from any thread. Events come from the pod's thread, or from within
// order(); they must not destroy the host.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/ids.h"
#include "common/status.h"
#include "node-agent/pod_registry.h"
#include "proto/control.pb.h"

namespace fermata::node_agent {

class StepDesk;

struct PodHostSettings {
  std::string node;               ///< name of this node
  std::filesystem::path run_dir;  ///< of the registry
  uint64_t write_bandwidth = 0;   ///< PodToHold::write_bandwidth
  StepDesk* steps = nullptr;      ///< whose ranks Slurm's are; null: there is no Slurm. Not owned
  std::string compress = "none";  ///< PodToHold::compress
  uint32_t precopy = 0;           ///< PodToHold::precopy
  std::function<void()> stop_goes_on{};  ///< AgentOptions::stop_goes_on
};

struct PodHostEvents {
  std::function<void(wire::Done)> done;
  std::function<void(wire::ExchangeUp)> exchange;
  /// There is no pod, or none any more; the host is through but for the answer to the order that
  /// brought this, so that who has that answer may start the pod anew. With a report where it has
  /// run and nobody has ordered its end: its record stays until that was told (PodRegistry).
  std::function<void(const PodId& pod, std::optional<wire::PodEnded> report)> over;
};

class PodWorker;

class PodHost {
 public:
  /// Waits for the LaunchOrder or RestoreOrder of this pod.
  PodHost(const PodId& pod, PodHostSettings settings, PodHostEvents events);
  /// Takes over a pod whose agent has died: lets it run where that left it frozen or cut off.
  PodHost(PodRecord adopted, PodHostSettings settings, PodHostEvents events);
  PodHost(const PodHost&) = delete;
  PodHost& operator=(const PodHost&) = delete;
  /// Rolls back what is in work; a restart that is not done is given up. A pod that runs, runs on.
  ~PodHost();

  void order(wire::Order order);
  void deliver(wire::ExchangeDown message);
  /// The stream is gone: sets are rolled back, restarts given up, and no order needs an answer.
  void coordinator_lost();
  /// A new stream stands.
  void coordinator_back();

  /// Slurm has sent a signal to a task: for its rank.
  void signal_rank(uint32_t rank, int signo);
  /// SIGKILL to all of it; its end is told as any other.
  void kill();

  /// The pod, if it runs.
  std::optional<wire::LivingPod> living() const;

 private:
  std::unique_ptr<PodWorker> worker_;
};

/// The report of a pod that ended, from its record.
wire::PodEnded report_of(const PodRecord& record);

}  // namespace fermata::node_agent
