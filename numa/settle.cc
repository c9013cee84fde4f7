#include "numa/settle.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "common/memory_image.h"
#include "numa/locality.h"
#include "numa/page_nodes.h"

namespace fermata::numa {
namespace {

constexpr uint64_t kBatch = 16384;

class Settler {
 public:
  explicit Settler(pid_t pid) : pid_(pid), ask_(ask_process(pid)) {}

  Status settle(const image::PageRun& run, bool shared) {
    FERMATA_ASSIGN_STATUS(const Numbers wanted, nodes_of(run));
    FERMATA_ASSIGN_STATUS(const std::vector<NodeRun> found,
                          runs_of(run.start(), run.start() + run.length(), ask_));
    for (const NodeRun& part : found) {
      if (!includes(wanted, part.nodes)) FERMATA_TRY(move(part, wanted, shared));
    }
    return {};
  }

  Settled result() const { return result_; }

 private:
  Status move(const NodeRun& part, const Numbers& wanted, bool shared) {
    const uint64_t end = part.start + part.length;
    for (uint64_t at = part.start; at < end; at += kBatch * kPageSize) {
      FERMATA_TRY(move_batch(at, std::min(end, at + kBatch * kPageSize), wanted, shared));
    }
    return {};
  }

  Status move_batch(uint64_t start, uint64_t end, const Numbers& wanted, bool shared) {
    std::vector<uint64_t> pages;
    for (uint64_t at = start; at < end; at += kPageSize) pages.push_back(at);
    std::vector<int> nodes(pages.size(), -1);
    FERMATA_TRY(ask_(pages, nodes));
    std::vector<void*> strayed;
    std::vector<int> targets;
    for (size_t i = 0; i < pages.size(); ++i) {
      if (nodes[i] < 0 || contains(wanted, nodes[i])) continue;
      strayed.push_back(reinterpret_cast<void*>(pages[i]));  // NOLINT(performance-no-int-to-ptr)
      targets.push_back(wanted[pages[i] / kPageSize % wanted.size()]);
    }
    if (strayed.empty()) return {};
    std::vector<int> status(strayed.size(), -1);
    const long moved =
        ::syscall(SYS_move_pages, pid_, strayed.size(), strayed.data(), targets.data(),
                  status.data(), shared ? MPOL_MF_MOVE_ALL : MPOL_MF_MOVE);
    // Refused as a whole (a node that may not be used): then each page is where it was.
    for (size_t i = 0; i < strayed.size(); ++i) {
      if (moved >= 0 && status[i] == targets[i]) {
        result_.moved += kPageSize;
      } else {
        result_.left += kPageSize;
        unite(result_.full, {targets[i]});
      }
    }
    return {};
  }

  pid_t pid_;
  AskNodes ask_;
  Settled result_;
};

}  // namespace

Result<Settled> settle_pages(pid_t pid, const image::ProcessPlacement& planned) {
  Settler settler(pid);
  for (const image::RangePlacement& range : planned.ranges()) {
    for (const image::PageRun& run : range.runs()) {
      FERMATA_TRY_RESULT(settler.settle(run, range.shared()));
    }
  }
  return settler.result();
}

}  // namespace fermata::numa
