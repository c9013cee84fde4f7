// Has a twin copy its own memory into a buffer that it shares with us: a plain copy, where
// /proc/PID/mem looks up, locks and copies twice each page (0.04 s of processor time a GiB against
// 0.25, AMD EPYC, Linux 6.18), and where process_vm_readv and O_DIRECT would unshare the pages.
//
// The twin runs a loop of ours in the page that it slept in, with every signal blocked, and does
// nothing else from then on. It can be stopped or killed by others at any moment: then copy() says
// so, and memory is read as without it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "common/shared_buffer.h"
#include "common/status.h"

namespace fermata::engine {

class TwinReader {
 public:
  /// `pid` is held by this thread in a stop, in a system call that our injected code made. `buffer`
  /// outlives the object. Tracer's thread.
  static Result<std::unique_ptr<TwinReader>> start(pid_t pid, const SharedBuffer& buffer);

  /// Copies [address, address + out.size()) to `out`. False: nothing was copied, and it has to be
  /// read in another way: it is little, `out` is not in the buffer, the program itself may not read
  /// there, or the twin does not work any more. Any thread.
  bool copy(uint64_t address, std::span<std::byte> out);

 private:
  struct Control;
  using Range = std::pair<uint64_t, uint64_t>;

  TwinReader(pid_t pid, SharedBuffer control, std::span<std::byte> ours, uint64_t theirs,
             std::vector<Range> unreadable);
  bool readable(uint64_t address, uint64_t length) const;
  bool wait_done(uint32_t request);

  pid_t pid_;
  SharedBuffer control_memory_;
  Control& control_;
  std::span<std::byte> ours_;      ///< the buffer, here
  uint64_t theirs_;                ///< the buffer, in the twin
  std::vector<Range> unreadable_;  ///< ascending
  std::atomic<bool> broken_{false};
  std::mutex mutex_;  ///< one copy at a time
};

}  // namespace fermata::engine
