// Which NUMA node holds each page of a range of another process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <vector>

#include "common/status.h"

namespace fermata::numa {

struct NodeRun {
  uint64_t start = 0;
  uint64_t length = 0;
  int node = 0;

  bool operator==(const NodeRun&) const = default;
};

/// Gathers pages, in ascending order of address, into at most `limit` runs: a range of more pages
/// than that is taken in steps of several pages, each the node's that holds most of it. Steps
/// without pages join the run before them.
class RunBuilder {
 public:
  RunBuilder(uint64_t start, uint64_t end, size_t limit);
  void add(uint64_t page, int node);
  std::vector<NodeRun> take();

 private:
  void close_step();

  uint64_t start_;
  uint64_t end_;
  uint64_t step_;
  uint64_t current_ = 0;           // step that pages_ is of
  std::map<int, uint64_t> pages_;  // by node
  std::vector<NodeRun> runs_;
};

/// Asks the kernel for the pages that are present (pagemap, then move_pages(2)).
Result<std::vector<NodeRun>> nodes_of_pages(pid_t pid, uint64_t start, uint64_t end, size_t limit);

}  // namespace fermata::numa
