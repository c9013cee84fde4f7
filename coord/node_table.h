// The nodes whose agents have said hello, and how many of their slots are taken by which job. A
// node that is lost stays in it. Thread-safe; nothing blocks.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/ids.h"
#include "coord/connections.h"
#include "coord/placement.h"
#include "coord/store.h"
#include "proto/control.pb.h"

namespace fermata::coord {

class NodeTable {
 public:
  void attached(const wire::Hello& hello);
  void lost(const std::string& node);

  /// place_run() on what is free now; the slots are the job's until release().
  Result<Placement> reserve_run(JobStep job, uint32_t ranks, const std::vector<std::string>& names,
                                uint32_t count);
  /// place_restart(), likewise.
  Result<std::vector<std::string>> reserve_restart(JobStep job, std::span<const uint32_t> ranks,
                                                   const std::vector<std::string>& names,
                                                   std::span<const std::string> before);
  /// Slots of a job that runs already, on nodes that may not be here yet.
  void adopt(JobStep job, std::span<const std::string> nodes, std::span<const uint32_t> ranks);
  void release(JobStep job);

  /// Where the pods of a job that runs could go without it: as reserve_restart() without names.
  /// Nothing is reserved.
  Status room_elsewhere(JobStep job, std::span<const uint32_t> ranks,
                        const std::vector<std::string>& names,
                        std::span<const std::string> before) const;
  /// Nothing new is placed on a node that is drained. One whose agent has never come may be, too.
  void set_drained(const DrainedNode& node);
  void undrain(const std::string& node);
  bool known(const std::string& node) const;

  /// IP addresses of these nodes.
  Addresses addresses_of(std::span<const std::string> nodes) const;
  /// Hello.relay; empty for a node that is not here.
  std::string relay_of(const std::string& node) const;
  std::vector<wire::NodeInfo> list() const;

 private:
  struct Node {
    wire::Hello hello;
    bool up = false;
    int64_t since = 0;  // seconds since the epoch
    std::map<JobStep, uint32_t> used;
    std::optional<DrainedNode> drained;
  };
  /// As if `without` used none.
  std::vector<NodeRoom> rooms(std::optional<JobStep> without = std::nullopt) const;
  void take(JobStep job, std::span<const std::string> nodes, std::span<const uint32_t> ranks);

  mutable std::mutex mutex_;
  std::map<std::string, Node> nodes_;
};

}  // namespace fermata::coord
