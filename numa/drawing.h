// What both forms of a picture draw: a machine's tree with threads and bytes laid on it. Any
// thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "numa/group_tree.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

struct Drawing {
  Machine machine;
  Group tree;
  Numbers allowed_cpus;                          ///< empty: all
  std::map<int, std::map<int, uint64_t>> bytes;  ///< by node, by process
  std::map<int, uint64_t> size;                  ///< of nodes; 0: not known
  /// Threads (process, thread) by the smallest group that holds all CPUs they may run on.
  std::map<const Group*, std::vector<std::pair<int, int>>> threads;

  /// The threads at a group as text: "7/7 7/8"; "" where there are none. Of many the first.
  std::string threads_at(const Group& group) const;
};

/// `drawing` is filled in place: `threads` points into its tree.
Status draw(const image::Placement& placement, Drawing& drawing);

}  // namespace fermata::numa
