// Where the pages of a process go, run by run. Not shared between threads.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "common/status.h"
#include "numa/mapping.h"
#include "proto/placement.pb.h"

namespace fermata::numa {

/// [start, end) of a run, with its share of the bytes.
image::PageRun part_of(const image::PageRun& run, uint64_t start, uint64_t end);

/// Memory follows its readers: what a process had on a node goes where its threads of that node go,
/// and where these part, its bytes part as they do, in order of address, at a grain of 2 MiB. (That
/// is how a loop that a team of threads shares touches an array.)
class PagePlan {
 public:
  struct Place {
    int node = -1;
    uint64_t bytes = 0;  ///< this place is for so much; the last of a list is for all the rest
  };

  /// The references outlive this. `all_before`: nodes that were to be used; what was spread over
  /// all of them is spread over all of `usable`, whose memory may be used here; empty: by the
  /// mapping alone.
  PagePlan(const Mapping& mapping, const Machine& before, const Machine& now, Numbers all_before,
           Numbers usable);

  /// Learns what process `vpid` has where. All threads bound to `cpus` and all runs come before the
  /// first place().
  void add_thread(int vpid, const Numbers& cpus);
  void add_run(int vpid, const image::PageRun& run, int node);

  /// The run in this machine's numbers, in one or several parts; nothing where no node takes it.
  /// Runs come in order of address. `shared`: other processes have the pages, too, and all must
  /// come to the same answer.
  std::vector<image::PageRun> place(int vpid, const image::PageRun& run, const Numbers& nodes,
                                    bool shared);

  /// Nodes in the place of `nodes`: for memory policies.
  Numbers images_of(const Numbers& nodes) const;
  /// The first of them, by the old nodes' order; -1: none.
  int primary_of(const Numbers& nodes) const;

 private:
  using Key = std::pair<int, int>;  // process, old node

  std::vector<Place>& places(const Key& key);
  int primary(int node) const;

  const Mapping& mapping_;
  const Machine& before_;
  const Machine& now_;
  Numbers all_before_;
  Numbers usable_;
  std::map<Key, std::map<int, uint64_t>> readers_;  // weight by new node
  std::map<Key, uint64_t> bytes_;
  std::map<Key, std::vector<Place>> places_;
};

}  // namespace fermata::numa
