// What fails for something that passes by itself (kBusy), such as a connection that is being
// made, is tried again. The calling thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "common/status.h"
#include "coord/agent.h"

namespace fermata::coord {

/// How often, and how far apart: most things pass in no time, and a program that computes for
/// seconds before it reads what waits for it is met after these seconds.
struct Patience {
  uint32_t attempts = 24;
  /// At least, before the second attempt; each further one is longer, up to `longest_pause`. A job
  /// that is let go has acknowledgements to send that may be delayed by 40 ms.
  Duration pause = std::chrono::milliseconds(100);
  Duration longest_pause = std::chrono::seconds(2);
  /// No attempt is begun later than this after the first one was.
  Duration limit = std::chrono::seconds(20);
  /// What stands in the way for less may still pass (SameEachTime).
  Duration lasting = std::chrono::seconds(15);
};

/// Tells what passes by itself from what only seems to.
class SameEachTime {
 public:
  explicit SameEachTime(const Patience& patience) : lasting_(patience.lasting) {}
  /// What an attempt came to. `judged`: it got so far that the job itself was looked at.
  void note(const Status& status, bool judged);
  /// The last that was noted, and how many attempts there were. kCannotHold instead of kBusy, and
  /// no word of another try: the very same thing stood in the way of all of several attempts, from
  /// the first to the last of which it was long enough.
  Status verdict() const;

 private:
  const Duration lasting_;
  uint32_t count_ = 0;
  bool same_ = true;
  Time first_;
  Time last_time_;
  Status last_;
};

/// Calls `attempt` until it says something else than kBusy, or patience ends. Says how often it
/// was called.
uint32_t try_patiently(const Patience& patience, const std::function<Code()>& attempt);

}  // namespace fermata::coord
