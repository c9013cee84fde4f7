// One order to many pods at once, and their answers. Any thread.
#pragma once

#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "coord/agent.h"
#include "coord/fleet.h"

namespace fermata::coord {

/// An order and the node it goes to.
struct Errand {
  std::string node;
  wire::Order order;  ///< its id and timeout are filled in
};

struct Errands {
  std::vector<Result<wire::Done>> done;  ///< one each: kTimeout where there was none
  Status first_failure;                  ///< that came in, naming the node; kGone when given up

  bool all_done() const { return first_failure.is_ok(); }
};

/// When run_errands() returns.
enum class Until { kAllAnswered, kFirstFailure };

/// Sends all and waits: for `timeout` at most, and not after `give_up` was told to stop.
Errands run_errands(Fleet& fleet, std::vector<Errand> errands, Duration timeout, Until until,
                    const std::stop_token& give_up);

}  // namespace fermata::coord
