// Finding the pages of a stopped pod's processes while other things are looked at: what needs no
// call in a process is done on a thread beside the tracer's, until that has nothing else to do;
// what a copy-on-write twin can be asked as well is left to it, and costs the pod no time at all.
// Tracer's thread.
#pragma once

#include <atomic>
#include <deque>
#include <vector>

#include "common/background.h"
#include "common/memory_image.h"
#include "node-agent/engine/page_finder.h"

namespace fermata::engine {

/// Pages of a stopped process that nobody has looked for yet: maps that its twin has, too.
struct UnfoundPages {
  int vpid = 0;
  pid_t pid = 0;
  std::vector<OwnMap> maps;
};

/// The private maps of a process, in ascending order.
struct OwnMaps {
  std::vector<OwnMap> all;
  std::vector<OwnMap> in_twin;      ///< those of `all` that a child made by fork(2) is given
  std::vector<OwnMap> not_in_twin;  ///< and those that it is not
};

class PageSearch {
 public:
  /// `unfound`: gets what is left to twins; null: there will be none. `finder` and `unfound`
  /// outlive this.
  PageSearch(PageFinder& finder, std::vector<UnfoundPages>* unfound)
      : finder_(finder), unfound_(unfound) {}

  /// Finds the pages of `region`, or begins to. Once it returns a twin may be made.
  Status add(const StoppedProcess& process, OwnMaps maps, MemoryRegion region);

  /// Takes part in the searches until all are done, and puts their regions before those of
  /// `memory`, in the order of PIDs.
  Status finish(std::vector<MemoryRegion>& memory);

 private:
  struct Search {
    StoppedProcess process;
    std::vector<OwnMap> maps;
    MemoryRegion region;
    Status status;
    std::atomic<bool> begun = false;
  };
  void find(Search& search);

  PageFinder& finder_;
  std::vector<UnfoundPages>* unfound_;
  std::deque<Search> searches_;  // each stays where it is
  Background beside_;            // ends before what it works on
};

/// Finds what was left and adds it to `regions`.
Status find_and_add(const std::vector<UnfoundPages>& unfound, std::vector<MemoryRegion>& regions);

}  // namespace fermata::engine
