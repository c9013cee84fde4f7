#include "node-agent/huge_pages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "common/memory_image.h"
#include "node-agent/engine/pagemap_scan.h"
#include "node-agent/engine/twin_ends.h"

namespace fermata::node_agent {
namespace {

constexpr int kCollapse = 25;  // MADV_COLLAPSE
constexpr uint64_t kUserSpace =
    0x7ffffffff000;  // x86_64: TASK_SIZE with four levels of page tables

/// errno of the call; 0: they are one page.
int collapse(int pidfd, uint64_t address) {
  const iovec range{reinterpret_cast<void*>(address), kHugePage};
  return ::syscall(SYS_process_madvise, pidfd, &range, 1, kCollapse, 0) < 0 ? errno : 0;
}

bool is_of_one_page(int error) {
  // Unmapped meanwhile, write-protected for tracking, pinned, busy.
  return error == EINVAL || error == EAGAIN || error == EBUSY || error == EFAULT;
}

}  // namespace

void HugePages::note(const std::vector<pid_t>& processes) {
  stop();
  processes_.clear();
  for (const pid_t pid : processes) {
    Process process{UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))), {}};
    const UniqueFd pagemap(
        ::open(fmt::format("/proc/{}/pagemap", pid).c_str(), O_RDONLY | O_CLOEXEC));
    if (!process.pidfd || !pagemap) continue;
    // A process that ends meanwhile has none. Huge ones first, of which there are few: to look up
    // what a page is of costs the kernel eight times the rest, 24 ms a GiB.
    std::vector<Range> huge;
    (void)engine::scan_pages(pagemap.get(), 0, kUserSpace,
                             {.all = engine::kPageIsHuge | engine::kPageIsPresent},
                             [&](uint64_t start, uint64_t end, uint64_t) {
                               huge.push_back({start, end});
                             });
    for (const Range& range : huge) {
      (void)engine::scan_pages(
          pagemap.get(), range.start, range.end,
          {.all = engine::kPageIsHuge | engine::kPageIsPresent, .none = engine::kPageIsFile},
          [&](uint64_t start, uint64_t end, uint64_t) {
            process.ranges.push_back({start, end});
          });
    }
    if (!process.ranges.empty()) processes_.push_back(std::move(process));
  }
}

void HugePages::want(pid_t pid, const std::vector<Extent>& ranges) {
  Process process{UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))), {}};
  if (!process.pidfd || ranges.empty()) return;
  for (const Extent& one : ranges) {
    process.ranges.push_back({one.address, one.address + one.length});
  }
  processes_.push_back(std::move(process));
}

uint64_t HugePages::bytes() const {
  uint64_t sum = 0;
  for (const Process& process : processes_) {
    for (const Range& range : process.ranges) sum += range.end - range.start;
  }
  return sum;
}

void HugePages::mend() {
  stop();
  if (processes_.empty()) return;
  thread_ = std::jthread([this](const std::stop_token& ended) { collapse_all(ended); });
}

void HugePages::collapse_all(const std::stop_token& ended) const {
  engine::wait_for_twin_ends();  // the pages are theirs, too
  for (const Process& process : processes_) {
    for (const Range& range : process.ranges) {
      const uint64_t first = (range.start + kHugePage - 1) / kHugePage * kHugePage;
      for (uint64_t at = first; at + kHugePage <= range.end; at += kHugePage) {
        if (ended.stop_requested()) return;
        const int error = collapse(process.pidfd.get(), at);
        if (error == ESRCH) break;
        // No huge page to be had, no such call, no right: the next will not do better.
        if (error != 0 && !is_of_one_page(error)) return;
      }
    }
  }
}

void HugePages::wait() {
  if (thread_.joinable()) thread_.join();
}

void HugePages::stop() {
  thread_.request_stop();
  wait();
}

}  // namespace fermata::node_agent
