// What fails for something that passes by itself (kBusy), such as a connection that is being
// made, is tried again. The calling thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "common/status.h"
#include "coord/agent.h"

namespace fermata::coord {

/// How often, and how far apart.
struct Patience {
  uint32_t attempts = 20;
  /// At least. A job that is let go has acknowledgements to send that may be delayed by 40 ms.
  Duration pause = std::chrono::milliseconds(100);
  /// No attempt is begun later than this after the first one was.
  Duration limit = std::chrono::seconds(20);
};

/// Tells what passes by itself from what only seems to.
class SameEachTime {
 public:
  /// What an attempt came to. `judged`: it got so far that the job itself was looked at.
  void note(const Status& status, bool judged);
  /// The last that was noted. kCannotHold instead of kBusy: the very same thing stood in the way
  /// of all attempts, and of several.
  Status verdict() const;

 private:
  uint32_t count_ = 0;
  bool same_ = true;
  Status last_;
};

/// Calls `attempt` until it says something else than kBusy, or patience ends. Says how often it
/// was called.
uint32_t try_patiently(const Patience& patience, const std::function<Code()>& attempt);

}  // namespace fermata::coord
