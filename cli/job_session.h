// A job in the hands of this process: its pod, its claim, what takes its sets, and the loop that
// waits for its end. Shared by `fermata run` and `fermata restart`. On one thread, the tracer.
#pragma once

#include <chrono>
#include <csignal>
#include <optional>
#include <string>

#include "coord/coordinator.h"
#include "node-agent/control.h"
#include "node-agent/job_registry.h"
#include "node-agent/pod/pod.h"
#include "node-agent/pod_agent.h"

namespace fermata::cli {

struct SessionOptions {
  std::chrono::milliseconds interval{0};  ///< 0: sets only on request
  bool quiet = false;
  uint64_t write_bandwidth = 0;  ///< PodToHold::write_bandwidth
  uint32_t precopy = 0;          ///< PodToHold::precopy
  std::string track = "none";    ///< how writes to memory are tracked
  uint32_t full_every = coord::kFullEvery;
  node_agent::LazyRestore* lazy = nullptr;  ///< PodToHold::lazy
  std::string compress = {};           ///< of memory in images: parse_compression(); empty: not
  uint32_t keep = storage::kKeptSets;  ///< newest sets that stay; 0: all
};

/// The value of --checkpoint-interval; empty: 0.
Result<std::chrono::milliseconds> parse_interval(const std::string& text);

/// Signals that end or steer a job are blocked from here on, to be read and handed to it. Call
/// before the pod is made (its processes start with none blocked).
Status take_over_signals();

/// Those signals: what a user, a shell or a batch system sends, without those that were ignored
/// when this process started, as SIGHUP is below nohup.
sigset_t forwarded_set();

/// Takes a set of a job through `agent`; then the newest `keep` stay.
coord::TriedSet take_set(coord::Coordinator& coordinator, const node_agent::JobRecord& record,
                         const Credentials& owner, node_agent::PodAgent& agent,
                         const SessionOptions& options, bool end_job);
/// The answer to `fermata able`: JSON text in the body, a sentence in the status when it is no.
node_agent::ControlReply answer_able(const coord::Coordinator& coordinator,
                                     node_agent::PodAgent& agent);

/// Holds the job until it has ended: passes signals on, takes sets at the interval and on request.
/// Then the pod's group is removed. Returns the exit status of `fermata run`.
int hold_job(pod::Pod& pod, const node_agent::JobRecord& record, const Credentials& owner,
             node_agent::ControlServer& control, coord::Coordinator& coordinator,
             const SessionOptions& options);

}  // namespace fermata::cli
