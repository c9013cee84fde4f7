// A pod on a node of the fleet, as the set protocol sees it: phases are sent as orders, and waited
// for. One object for one set. As Agent: on the job's thread; answers come on any.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>

#include "coord/agent.h"
#include "coord/fleet.h"
#include "coord/writer_gate.h"

namespace fermata::coord {

class RemoteAgent final : public Agent {
 public:
  /// `fleet` and `gate` outlive this. When `give_up` is told to stop, await() returns at once.
  RemoteAgent(Fleet& fleet, WriterGate& gate, std::string node, const PodId& pod,
              std::stop_token give_up);

  std::string node() const override { return node_; }
  void begin(Phase phase, const SetOrder& order, Time deadline) override;
  Result<AgentReport> await(Time deadline) override;
  void roll_back(const SetOrder& order) override;
  void await_roll_back(Time deadline) override;
  void end_job(const SetOrder& order) override;
  Status await_end(Time deadline) override;

 private:
  struct Waiting;
  /// What takes the answer to the next order.
  Fleet::Answer expect();
  Result<wire::Done> receive(Time deadline, const std::stop_token& give_up);
  /// How long the order waited before it was sent.
  Result<Duration> wait_for_turn();

  Fleet& fleet_;
  WriterGate& gate_;
  const std::string node_;
  const PodId pod_;
  std::stop_token give_up_;
  std::shared_ptr<Waiting> waiting_;  // shared with the answer, which may come late
  WriterGate::Place place_;
  AgentReport known_;
};

}  // namespace fermata::coord
