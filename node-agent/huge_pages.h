// Transparent huge pages of a pod. A copy-on-write twin costs the pod its huge pages: the first
// write to each breaks it into small ones, and the next fork then copies 512 times as many entries
// of page tables. Here they are noted before, and made again when the twins are gone.
#pragma once

#include <cstdint>
#include <thread>
#include <vector>

#include "common/memory_image.h"
#include "common/unique_fd.h"

namespace fermata::node_agent {

class HugePages {
 public:
  HugePages() = default;
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;
  ~HugePages() { stop(); }

  /// Notes where these processes, which run, have private huge pages (PAGEMAP_SCAN, Linux 6.7; an
  /// older kernel cannot tell, and then nothing is noted). Stops what mend() began.
  void note(const std::vector<pid_t>& processes);
  /// Adds what else mend() is to make huge, of a process that is there.
  void want(pid_t pid, const std::vector<Extent>& ranges);
  /// Bytes of huge pages noted.
  uint64_t bytes() const;
  /// Makes huge again what was noted, in a thread of its own, while the pod runs
  /// (process_madvise(2) with MADV_COLLAPSE, Linux 6.1). What the kernel does not give is let be.
  void mend();
  /// Waits until mend() has done all.
  void wait();
  /// Ends mend() at the next page.
  void stop();

 private:
  struct Range {
    uint64_t start = 0;
    uint64_t end = 0;
  };
  struct Process {
    UniqueFd pidfd;
    std::vector<Range> ranges;
  };
  void collapse_all(const std::stop_token& ended) const;

  std::vector<Process> processes_;
  std::jthread thread_;
};

}  // namespace fermata::node_agent
