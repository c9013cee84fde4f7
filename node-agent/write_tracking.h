// What of a pod's memory an image can leave to the image of an earlier set: keeps the trackers of
// its processes from set to set, and what each of the last cuts held. Whether a set was committed
// is not known when the next begins; the parent that is then named tells. So nothing that was found
// dirty is forgotten before: it counts for every cut that may be named.
//
// What is not known is taken as changed: a process without a tracker, a parent that was taken by
// another agent. Private memory goes by the tracker (or by content, kHash, and where the tracker
// passes a map over: it has huge pages, which would break, or is of MAP_HUGETLB); shared memory,
// which may be written by ways that no tracker sees, always by content.
//
// One thread, the tracer's, but for what PageFinder allows.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "node-agent/engine/capture.h"
#include "node-agent/engine/page_finder.h"
#include "node-agent/engine/pages.h"
#include "node-agent/engine/write_tracker.h"
#include "node-agent/page_hashes.h"

namespace fermata::node_agent {

class WriteTracking final : public engine::PageFinder {
 public:
  /// A set begins. `way`: engine::parse_track(); with another than before all trackers go.
  /// `parent`: a committed set, which the image may build on; 0: a full image.
  /// `spare_huge_pages`: maps with transparent huge pages are not tracked but compared.
  void begin(engine::TrackKind way, bool spare_huge_pages, Crid parent);

  engine::TrackKind way() const { return way_; }
  /// Whether the set that was begun builds on its parent.
  bool incremental() const { return base_ != nullptr; }

  /// Whether a process of the group with much memory is not tracked yet: it should be, before the
  /// cut, with start().
  bool wants_start(const std::filesystem::path& group) const;
  /// Trackers for all processes of a pod that stands still, and for all of their maps.
  void start(engine::FrozenPod& pod);
  /// What of start() takes long and may be done while the pod runs.
  void protect();
  /// Bytes of private memory that an image would hold now, by a look at the running pod.
  uint64_t estimate(const std::filesystem::path& group) const;

  /// For copies that are made ahead of the cut, while the pod runs: of private memory that is
  /// tracked, with `first` all that an image would hold now, else what was written since the call
  /// before. From the call on writes are noticed anew. Sources read the running processes.
  std::vector<MemoryRegion> take(const std::filesystem::path& group, bool first);
  /// After find(): what of a process (by its PID in the pod) was written since the last take(), or
  /// was in a map of which any take() since the first could not tell; null: that is not known.
  const Extents* written_since_take(uint64_t vpid) const;

  // PageFinder, of the set that was begun
  Result<Extents> find(const engine::StoppedProcess& process,
                       std::span<const engine::OwnMap> maps) override;
  bool needs_no_calls(const engine::StoppedProcess& process) const override;
  bool can_wait(const engine::StoppedProcess& process,
                std::span<const engine::OwnMap> maps) override;
  bool is_ours(pid_t pid, uint64_t start, uint64_t end) const override;

  /// Takes out of `memory`, which find() was asked for, what need not be written: pages of zeros
  /// and pages that the parent has. Of private memory only with kHash or where `cheap`: it is read
  /// for that. The pod may run: `waited_for` as hash_pages() has it. `last`: no set of this job as
  /// it runs now follows, so nothing is read for its sake.
  struct Trim {
    bool cheap = false;
    bool last = false;
    unsigned threads = 1;
    std::function<bool()> waited_for = nullptr;
  };
  Status trim(std::vector<MemoryRegion>& memory, const Trim& how);
  /// The image of set `crid` holds `memory` and nothing else: a later set may build on it.
  void remember(Crid crid, const std::vector<MemoryRegion>& memory);

 private:
  struct Tracked {
    uint64_t number = 0;  ///< of the tracker: no two are alike
    uint64_t start_time = 0;
    std::unique_ptr<engine::WriteTracker> tracker;
  };
  /// What a cut held of one process.
  struct ProcessCut {
    uint64_t tracker = 0;
    Extents pages;
    Extents covered;  ///< that it and each cut since has asked the tracker about
    Extents since;    ///< written after it
  };
  struct Cut {
    Crid crid;
    std::map<uint64_t, ProcessCut> processes;  ///< by vpid
    std::map<MemoryId, PageHashes> hashes;
  };

  void allow_zeros(int vpid, std::span<const engine::OwnMap> maps);
  Tracked* tracked(const engine::StoppedProcess& process);
  void cover(pid_t pid, const Tracked& of);
  const Tracked* known(pid_t pid) const;
  void forget(pid_t pid);
  void forget_dead();
  static Result<bool> is_untracked(const Tracked& of, const engine::OwnMap& map);
  Extents take_of(pid_t pid, const Tracked& of, bool first, const engine::PageScanner& scanner,
                  Extents& not_taken);
  static Status sort_out(const engine::OwnMap& map, const ProcessCut* then, bool notices_loss,
                         const engine::PageScanner& scanner, Extents& here, Extents& kept);
  Result<Extents> find_tracked(const engine::StoppedProcess& process,
                               std::span<const engine::OwnMap> maps, Tracked& of);

  engine::TrackKind way_ = engine::TrackKind::kNone;
  bool spare_huge_pages_ = true;
  // Of trackers_ and of what is kept by process here: while a set is in work several threads may
  // have a process each. What is inside belongs to that process's.
  mutable std::mutex mutex_;
  std::map<pid_t, Tracked> trackers_;
  uint64_t last_number_ = 0;
  std::map<pid_t, std::vector<engine::OwnMap>> to_protect_;
  std::deque<Cut> cuts_;       ///< the newest last
  const Cut* base_ = nullptr;  ///< one of cuts_

  // Of the set in work.
  std::map<uint64_t, uint64_t> numbers_;       ///< by vpid: the tracker that found its pages
  std::map<uint64_t, Extents> covered_;        ///< by vpid: what that one was asked about
  std::map<uint64_t, Extents> compared_;       ///< by vpid: maps that its tracker passed over
  std::map<uint64_t, Extents> zeros_allowed_;  ///< by vpid: where a page of zeros need not be held
  std::map<uint64_t, Extents> not_taken_;      ///< by vpid: where take() could not tell
  std::map<uint64_t, Extents> last_written_;   ///< by vpid: what the tracker told at the cut
  std::map<MemoryId, PageHashes> hashes_;
};

}  // namespace fermata::node_agent
