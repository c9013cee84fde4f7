// A buffer that takes the memory of a stopped pod, so that the pod runs on while the copy is
// written. It is kept from set to set: first touch of fresh memory costs more than the copy. One
// thread calls; copy() uses threads of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "common/memory_image.h"
#include "common/status.h"

namespace fermata::node_agent {

class CopyArena {
 public:
  CopyArena() = default;
  CopyArena(const CopyArena&) = delete;
  CopyArena& operator=(const CopyArena&) = delete;
  ~CopyArena();

  /// Makes room for `bytes` behind the first `from` and has the kernel back it with pages now.
  /// Before the pod is stopped.
  Status warm(uint64_t bytes, uint64_t from = 0);

  /// Makes room for `bytes`, what was in there before included. Until the next call.
  Result<std::byte*> room(uint64_t bytes);
  const std::byte* base() const { return base_; }

  /// Copies what is here of `regions`. The result reads from the arena: until the next call or the
  /// end of the arena. `scattered`: small pieces by MemorySource::read_scattered(). The first
  /// `from` bytes are left as they are.
  Result<std::vector<MemoryRegion>> copy(const std::vector<MemoryRegion>& regions, unsigned threads,
                                         bool scattered = false, uint64_t from = 0);

  /// The copy is not needed any more. The pages stay ours as long as nobody else wants them
  /// (MADV_FREE, madvise(2)).
  void release();

 private:
  Status grow(uint64_t bytes);

  std::byte* base_ = nullptr;
  uint64_t capacity_ = 0;
};

}  // namespace fermata::node_agent
