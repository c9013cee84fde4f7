// The CPUs of a thread on another machine. Any thread.
#pragma once

#include <map>

#include "numa/mapping.h"

namespace fermata::numa {

class ThreadPlan {
 public:
  /// The references outlive this. `whole`: who had all of a node or a core gets all of the one in
  /// its place, of a core if nothing else was moved there; else CPU by CPU.
  ThreadPlan(const Mapping& mapping, const Side& before, const Side& now, bool whole);

  /// Ascending, all of them allowed; empty where none of `cpus` has a place.
  Numbers cpus_for(const Numbers& cpus) const;

 private:
  const Mapping& mapping_;
  bool whole_;
  Machine before_;  // what was allowed of them
  Machine now_;
  std::map<int, Numbers> homes_before_;  // CPUs by node
  std::map<int, Numbers> homes_now_;
  std::map<int, size_t> core_of_;       // here, by CPU
  std::map<size_t, Numbers> moved_to_;  // old CPUs by core here
};

}  // namespace fermata::numa
