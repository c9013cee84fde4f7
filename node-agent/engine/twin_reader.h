// Has a twin copy its own memory into a buffer that it shares with us: a plain copy, where
// /proc/PID/mem looks up, locks and copies twice each page (0.04 s of processor time a GiB against
// 0.25, AMD EPYC, Linux 6.18), and where process_vm_readv and O_DIRECT would unshare the pages.
//
// The twin runs a loop of ours in the page that it slept in, with every signal blocked, and does
// nothing else from then on. It can be stopped or killed by others at any moment: then copy() says
// so, and memory is read as without it.
//
// It also gives back what is not needed any more (MADV_DONTNEED of private memory of its own,
// madvise(2)): pages that the program has written meanwhile are free then, and those that it has
// not are its alone, so that it writes to them without a copy. What was asked for is given back
// with a later request, once it is known to have come: it can be read again until then.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/extents.h"
#include "common/shared_buffer.h"
#include "common/status.h"
#include "node-agent/engine/give_back.h"

namespace fermata::engine {

/// Has a twin in a stop give up `ranges` of its memory; `syscall`: a system call instruction that
/// it has. Tracer's thread.
Status unmap_in_twin(pid_t pid, uint64_t syscall, const Extents& ranges);

class TwinReader {
 public:
  /// That of a twin that copies: it competes with the job it belongs to.
  static constexpr int kNice = 5;

  /// `pid` is held by this thread in a stop, in a system call that our injected code made. `buffer`
  /// outlives the object. `once`: as MemorySource::read_once(), or null: nothing is given back.
  /// Tracer's thread.
  static Result<std::unique_ptr<TwinReader>> start(pid_t pid, const SharedBuffer& buffer,
                                                   const Extents* once);

  /// Copies [address, address + out.size()) to `out`. False: nothing was copied, and it has to be
  /// read in another way: it is little, `out` is not in the buffer, the program itself may not read
  /// there, or the twin does not work any more. Any thread.
  bool copy(uint64_t address, std::span<std::byte> out);
  /// What copy() refused was read in another way. Any thread.
  void was_read(uint64_t address, uint64_t length);

 private:
  struct Control;
  using Range = std::pair<uint64_t, uint64_t>;

  TwinReader(pid_t pid, SharedBuffer control, std::span<std::byte> ours, uint64_t theirs,
             std::vector<Range> unreadable);
  bool readable(uint64_t address, uint64_t length) const;
  bool ask(uint64_t from, uint64_t to, uint64_t length);
  void give_back();
  bool wait_done(uint32_t request);

  pid_t pid_;
  SharedBuffer control_memory_;
  Control& control_;
  std::span<std::byte> ours_;         ///< the buffer, here
  uint64_t theirs_;                   ///< the buffer, in the twin
  std::vector<Range> unreadable_;     ///< ascending
  std::optional<GiveBack> unneeded_;  ///< guarded by mutex_
  std::atomic<bool> broken_{false};
  std::mutex mutex_;  ///< one request at a time
};

}  // namespace fermata::engine
