// When a step that is to be requeued at its job's time limit takes its last set, so that this
// commits before the limit by the margin that was asked for: planned from how long sets have taken.
// Plain values; one thread. Times are the steady clock's, given by the caller.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace fermata::coord {

class EndPlan {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  /// What Slurm says of the job.
  struct Limit {
    Time start;
    Time end;
  };
  enum class Act {
    kAsk,      ///< Slurm, for the limit: limits are changed, and move while a job is suspended
    kMeasure,  ///< an ordinary set, as nobody knows yet how long one takes
    kLast,     ///< the last set
  };
  struct Next {
    Act act;
    Time when;
  };

  /// `longest`: of a set of an earlier start; 0: not known.
  EndPlan(Duration margin, Duration longest) : margin_(margin), longest_(longest) {}

  /// Slurm has answered; nullopt: there is no limit now (or no answer).
  void answered(Time now, std::optional<Limit> limit);
  /// A set was committed, and took so long.
  void measured(Duration took);
  /// What was due did not come to a committed set.
  void failed(Time now);
  /// The last set is there.
  void done() { done_ = true; }

  /// nullopt: nothing more is to be done.
  std::optional<Next> next() const;
  /// Whether another set, begun now, could still be under way when the last one is due.
  bool leaves_no_time(Time now) const;
  /// Not empty: the limit leaves too little time for a run between two sets; there will be none.
  std::string hopeless() const;

  Duration longest() const { return longest_; }

 private:
  Duration expected() const;
  Time ask_again() const;

  Duration margin_;
  Duration longest_;
  std::optional<Time> asked_;
  std::optional<Time> not_before_;
  Duration retry_{};
  std::optional<Limit> limit_;
  bool done_ = false;
};

}  // namespace fermata::coord
