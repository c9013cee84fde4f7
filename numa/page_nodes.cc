#include "numa/page_nodes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "common/memory_image.h"
#include "common/unique_fd.h"

namespace fermata::numa {
namespace {

constexpr size_t kBatch = 16384;
constexpr uint64_t kPresent = uint64_t{1} << 63;  // proc(5), /proc/PID/pagemap

Status query(pid_t pid, const std::vector<void*>& pages, RunBuilder& runs) {
  std::vector<int> status(pages.size(), -1);
  // Without nodes to move to, it tells where the pages are (move_pages(2)).
  if (::syscall(SYS_move_pages, pid, pages.size(), pages.data(), nullptr, status.data(), 0) < 0) {
    return errno_status(errno, fmt::format("move_pages of process {}", pid));
  }
  for (size_t i = 0; i < pages.size(); ++i) {
    if (status[i] >= 0) runs.add(reinterpret_cast<uint64_t>(pages[i]), status[i]);
  }
  return Status::ok();
}

}  // namespace

RunBuilder::RunBuilder(uint64_t start, uint64_t end, size_t limit) : start_(start), end_(end) {
  const uint64_t pages = (end - start) / kPageSize;
  step_ = std::max<uint64_t>(1, (pages + limit - 1) / limit) * kPageSize;
}

void RunBuilder::add(uint64_t page, int node) {
  const uint64_t step = (page - start_) / step_;
  if (step != current_) close_step();
  current_ = step;
  ++pages_[node];
}

void RunBuilder::close_step() {
  if (pages_.empty()) return;
  const auto most = std::max_element(
      pages_.begin(), pages_.end(),
      [](const auto& left, const auto& right) { return left.second < right.second; });
  const uint64_t start = start_ + current_ * step_;
  const uint64_t end = std::min(end_, start + step_);
  if (!runs_.empty() && runs_.back().node == most->first) {
    runs_.back().length = end - runs_.back().start;
  } else {
    if (!runs_.empty()) runs_.back().length = start - runs_.back().start;
    runs_.push_back({start, end - start, most->first});
  }
  pages_.clear();
}

std::vector<NodeRun> RunBuilder::take() {
  close_step();
  return std::move(runs_);
}

Result<std::vector<NodeRun>> nodes_of_pages(pid_t pid, uint64_t start, uint64_t end, size_t limit) {
  const std::string path = fmt::format("/proc/{}/pagemap", pid);
  const UniqueFd pagemap(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return errno_failure(errno, path);
  RunBuilder runs(start, end, limit);
  std::vector<uint64_t> entries(kBatch);
  std::vector<void*> present;
  for (uint64_t at = start; at < end;) {
    const size_t count = std::min<uint64_t>(kBatch, (end - at) / kPageSize);
    const ssize_t n = ::pread(pagemap.get(), entries.data(), count * sizeof(uint64_t),
                              static_cast<off_t>(at / kPageSize * sizeof(uint64_t)));
    if (n < 0) return errno_failure(errno, path);
    const size_t got = static_cast<size_t>(n) / sizeof(uint64_t);
    if (got == 0) break;
    present.clear();
    for (size_t i = 0; i < got; ++i) {
      // An address of the other process: never used as a pointer here.
      if ((entries[i] & kPresent) != 0) {
        present.push_back(reinterpret_cast<void*>(at + i * kPageSize));  // NOLINT
      }
    }
    if (!present.empty()) FERMATA_TRY_RESULT(query(pid, present, runs));
    at += got * kPageSize;
  }
  return runs.take();
}

}  // namespace fermata::numa
