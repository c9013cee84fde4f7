// Slurm's steps before they are begun: what their nodes have offered until all have, and what is
// said to those that do not begin, however late they ask. Thread-safe; only wait_overdue() blocks.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <utility>
#include <variant>

#include "common/ids.h"
#include "coord/agent.h"
#include "proto/control.pb.h"

namespace fermata::coord {

struct OfferOf {
  std::string node;
  wire::StepOffer offer;
};
using StepOffers = std::map<uint32_t, OfferOf>;  ///< by the node's number in the step

/// What tasks are told that will not begin.
struct Refusal {
  std::string text;  ///< empty: nothing is to be said
  int exit_status = 1;
};

class StepBoard {
 public:
  /// `patience`: of a step for the rest of its nodes, from the last one that came.
  explicit StepBoard(Duration patience) : patience_(patience) {}

  /// The tasks of a node wait. Of a step that has all now: its offers; it is being begun until
  /// begun() or refused(). Of one that was refused: what its tasks are to be told. Else nothing.
  using Answer = std::variant<std::monostate, StepOffers, Refusal>;
  Answer offered(const std::string& node, const wire::StepOffer& offer);
  void begun(const PodId& id);
  /// This start of the step will not begin: who offers it again within the hour hears it.
  void refused(const PodId& id, Refusal refusal);
  /// A task has left on this node, so it will not begin either: those who wait are to be told.
  struct Overdue;
  std::optional<Overdue> withdrawn(const std::string& node, const PodId& id);

  struct Overdue {
    StepOffers offers;
    Refusal refusal;
  };
  /// A step that has waited for its nodes for too long, and is refused; none: `stop`.
  std::optional<Overdue> wait_overdue(const std::stop_token& stop);

 private:
  using Start = std::pair<JobStep, uint32_t>;
  struct Waiting {
    StepOffers offers;
    Time due;
  };
  struct Refused {
    Refusal refusal;
    Time until;
  };
  static Start start_of(const PodId& id) { return {id.step, id.start}; }
  void remember(const Start& start, Refusal refusal);

  const Duration patience_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::map<Start, Waiting> waiting_;
  std::set<Start> beginning_;
  std::map<Start, Refused> refused_;
};

}  // namespace fermata::coord
