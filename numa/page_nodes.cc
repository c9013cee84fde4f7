#include "numa/page_nodes.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "common/memory_image.h"

namespace fermata::numa {
namespace {

constexpr size_t kBatch = 16384;
constexpr uint64_t kStride = 32;          // pages for each that is asked for
constexpr uint64_t kBlock = 512;          // pages in 2 MiB
constexpr uint64_t kMostSamples = 65536;  // of a range
constexpr uint64_t kSmall = 64;           // pages: all are asked for
constexpr size_t kFewChanges = 2;         // in a block
constexpr size_t kFewInSmall = 16;        // in a range of which all is known
constexpr uint64_t kMoreOfMixed = 256;    // more samples of mixed runs, all together

struct Sample {
  uint64_t page = 0;
  int node = -1;  // negative: absent
};

/// The same for one page at every time: the answer is to be reproducible.
uint64_t scatter(uint64_t number) {
  uint64_t x = (number + 1) * 0x9e3779b97f4a7c15ULL;
  x ^= x >> 31;
  x *= 0xbf58476d1ce4e5b9ULL;
  return x ^ (x >> 29);
}

class Survey {
 public:
  Survey(uint64_t start, uint64_t end, const AskNodes& ask, size_t limit)
      : first_(start / kPageSize), last_(end / kPageSize), ask_(ask), limit_(limit) {
    const uint64_t pages = last_ - first_;
    stride_ = pages <= kSmall
                  ? 1
                  : std::max<uint64_t>(kStride, (pages + kMostSamples - 1) / kMostSamples);
    block_ = std::max<uint64_t>(kBlock, stride_ * 8);
  }

  Result<std::vector<NodeRun>> run(Gaps gaps) {
    choose();
    FERMATA_TRY_RESULT(answer(samples_));
    join_blocks();
    FERMATA_TRY_RESULT(find_changes());
    FERMATA_TRY_RESULT(complete_mixed());
    for (NodeRun& run : runs_) run.bytes = std::min(run.bytes, run.length);
    if (gaps == Gaps::kLeftOut) FERMATA_TRY_RESULT(leave_gaps());
    return std::move(runs_);
  }

 private:
  uint64_t block_of(uint64_t page) const { return page / block_; }

  void choose() {
    if (stride_ > 1) samples_.push_back({first_});
    for (uint64_t at = first_; at < last_; at += stride_) {
      const uint64_t width = std::min(stride_, last_ - at);
      const uint64_t page = at + scatter(at) % width;
      if (samples_.empty() || samples_.back().page < page) samples_.push_back({page});
    }
    if (samples_.back().page < last_ - 1) samples_.push_back({last_ - 1});
  }

  Status answer(std::span<Sample> samples) const {
    std::vector<uint64_t> pages;
    std::vector<int> nodes;
    while (!samples.empty()) {
      const std::span<Sample> batch = samples.first(std::min(samples.size(), kBatch));
      pages.clear();
      for (const Sample& sample : batch) pages.push_back(sample.page * kPageSize);
      nodes.assign(pages.size(), -1);
      FERMATA_TRY(ask_(pages, nodes));
      for (size_t i = 0; i < batch.size(); ++i) batch[i].node = nodes[i];
      samples = samples.subspan(batch.size());
    }
    return {};
  }

  /// Runs by samples alone; their borders are those of blocks, or lie between two samples.
  void join_blocks() {
    for (size_t begin = 0; begin < samples_.size();) {
      size_t end = begin;
      while (end < samples_.size() &&
             block_of(samples_[end].page) == block_of(samples_[begin].page)) {
        ++end;
      }
      one_block(begin, end);
      begin = end;
    }
    if (runs_.empty()) return;
    runs_.front().start = first_ * kPageSize;
    for (size_t i = 0; i < runs_.size(); ++i) {
      const uint64_t stop = i + 1 < runs_.size() ? runs_[i + 1].start : last_ * kPageSize;
      runs_[i].length = stop - runs_[i].start;
    }
  }

  void one_block(size_t begin, size_t end) {
    Numbers nodes;
    size_t changes = 0;
    int before = -1;
    for (size_t i = begin; i < end; ++i) {
      const int node = samples_[i].node;
      if (node < 0) continue;
      unite(nodes, {node});
      if (before >= 0 && node != before) ++changes;
      before = node;
    }
    const bool mixed = changes > (stride_ == 1 ? kFewInSmall : kFewChanges) ||
                       (changes > 0 && changes_.size() >= limit_);
    if (mixed && was_mixed_ && !runs_.empty()) {
      // Not each sample of a few meets every node: a block that shows fewer is like its neighbour.
      Numbers& known = runs_.back().nodes;
      if (includes(nodes, known)) known = nodes;
      if (includes(known, nodes)) nodes = known;
    }
    for (size_t i = begin; i < end; ++i) {
      const int node = samples_[i].node;
      if (node < 0) continue;
      const Numbers here = mixed ? nodes : Numbers{node};
      if (runs_.empty() || runs_.back().nodes != here) begin_run(i, here, mixed);
      runs_.back().bytes += pages_behind(i) * kPageSize;
    }
  }

  /// How many pages a sample stands for. The two at the ends were asked for besides.
  uint64_t pages_behind(size_t i) const {
    const bool besides = stride_ > 1 && (i == 0 || i + 1 == samples_.size());
    const uint64_t at = first_ + (samples_[i].page - first_) / stride_ * stride_;
    return besides ? 1 : std::min(stride_, last_ - at);
  }

  void begin_run(size_t i, const Numbers& nodes, bool mixed) {
    uint64_t page = samples_[i].page;
    if (!runs_.empty() && (mixed || was_mixed_)) {
      page = std::max(runs_.back().start / kPageSize + 1, block_of(page) * block_);
    } else if (!runs_.empty()) {
      changes_.push_back({last_present_before(i), page, runs_.size(), true});
    }
    was_mixed_ = mixed;
    runs_.push_back({page * kPageSize, 0, nodes, 0});
  }

  uint64_t last_present_before(size_t i) const {
    while (i > 0 && samples_[i - 1].node < 0) --i;
    return i > 0 ? samples_[i - 1].page : first_;
  }

  /// Two pages that differ; what lies between is not known yet.
  struct Change {
    uint64_t low = 0;
    uint64_t high = 0;
    size_t run = 0;       // the one that begins; unused between presence and absence
    bool rising = false;  // `high` is present
  };

  /// All changes at once: each round halves what is not known. `is_high(change, node)` tells on
  /// whose side a page on `node` is.
  template <typename IsHigh>
  Status halve(std::vector<Change>& changes, const IsHigh& is_high) const {
    for (;;) {
      std::vector<Sample> middle;
      std::vector<Change*> open;
      for (Change& change : changes) {
        if (change.high - change.low < 2) continue;
        middle.push_back({change.low + (change.high - change.low) / 2});
        open.push_back(&change);
      }
      if (open.empty()) return {};
      FERMATA_TRY(answer(middle));
      for (size_t i = 0; i < open.size(); ++i) {
        (is_high(*open[i], middle[i].node) ? open[i]->high : open[i]->low) = middle[i].page;
      }
    }
  }

  Status find_changes() {
    FERMATA_TRY(halve(changes_, [&](const Change& change, int node) {
      return node == runs_[change.run].nodes.front();
    }));
    for (const Change& change : changes_) {
      NodeRun& run = runs_[change.run];
      const uint64_t stop = run.start + run.length;
      run.start = change.high * kPageSize;
      run.length = stop - run.start;
      NodeRun& before = runs_[change.run - 1];
      before.length = run.start - before.start;
    }
    return {};
  }

  /// Few samples may miss a node that has a small part of a mixed run.
  Status complete_mixed() {
    const auto is_mixed = [](const NodeRun& run) { return run.nodes.size() > 1; };
    const auto mixed = static_cast<uint64_t>(std::count_if(runs_.begin(), runs_.end(), is_mixed));
    for (NodeRun& run : runs_) {
      if (!is_mixed(run)) continue;
      const uint64_t pages = run.length / kPageSize;
      const uint64_t step = std::max<uint64_t>(1, pages * mixed / kMoreOfMixed);
      std::vector<Sample> more;
      for (uint64_t at = 0; at < pages; at += step) {
        const uint64_t page = run.start / kPageSize + at;
        more.push_back({page + scatter(~page) % std::min(step, pages - at)});
      }
      FERMATA_TRY(answer(more));
      for (const Sample& sample : more) {
        if (sample.node >= 0) unite(run.nodes, {sample.node});
      }
    }
    return {};
  }

  /// Cuts out what is absent.
  Status leave_gaps() {
    std::vector<Change> edges;
    for (size_t i = 0; i + 1 < samples_.size(); ++i) {
      const bool rising = samples_[i].node < 0;
      if (rising == (samples_[i + 1].node < 0)) continue;
      edges.push_back({samples_[i].page, samples_[i + 1].page, 0, rising});
    }
    FERMATA_TRY(
        halve(edges, [](const Change& edge, int node) { return (node >= 0) == edge.rising; }));
    std::vector<NodeRun> present;
    uint64_t from = samples_.front().node >= 0 ? first_ : last_;
    edges.push_back({last_, last_, 0, false});
    for (const Change& edge : edges) {
      if (edge.rising) {
        from = edge.high;
        continue;
      }
      cut(from, edge.high, present);
      from = last_;
    }
    runs_ = std::move(present);
    return {};
  }

  /// Adds the parts of the runs that lie between two pages.
  void cut(uint64_t from, uint64_t to, std::vector<NodeRun>& parts) const {
    auto run = std::partition_point(runs_.begin(), runs_.end(), [&](const NodeRun& candidate) {
      return candidate.start + candidate.length <= from * kPageSize;
    });
    for (; run != runs_.end() && run->start < to * kPageSize; ++run) {
      NodeRun part = *run;
      part.start = std::max(run->start, from * kPageSize);
      part.length = std::min(run->start + run->length, to * kPageSize) - part.start;
      part.bytes = part.length;
      parts.push_back(std::move(part));
    }
  }

  uint64_t first_;
  uint64_t last_;
  const AskNodes& ask_;
  size_t limit_;
  uint64_t stride_ = 1;
  uint64_t block_ = kBlock;
  std::vector<Sample> samples_;
  std::vector<NodeRun> runs_;
  std::vector<Change> changes_;
  bool was_mixed_ = false;  // the last run
};

}  // namespace

AskNodes ask_process(pid_t pid) {
  return [pid](std::span<const uint64_t> pages, std::span<int> nodes) -> Status {
    std::vector<void*> addresses;
    addresses.reserve(pages.size());
    for (const uint64_t page : pages) {
      // An address of the other process: never used as a pointer here.
      addresses.push_back(reinterpret_cast<void*>(page));  // NOLINT(performance-no-int-to-ptr)
    }
    // Without nodes to move to, it tells where the pages are (move_pages(2)).
    if (::syscall(SYS_move_pages, pid, addresses.size(), addresses.data(), nullptr, nodes.data(),
                  0) < 0) {
      return errno_status(errno, fmt::format("move_pages of process {}", pid));
    }
    return {};
  };
}

Result<std::vector<NodeRun>> runs_of(uint64_t start, uint64_t end, const AskNodes& ask, Gaps gaps,
                                     size_t limit) {
  if (end <= start) return std::vector<NodeRun>{};
  return Survey(start, end, ask, limit).run(gaps);
}

}  // namespace fermata::numa
