// Memory that is read from one source where that has it, and from another elsewhere. Any thread may
// read.
#pragma once

#include <memory>
#include <span>

#include "common/memory_image.h"

namespace fermata::node_agent {

class PatchedSource final : public MemorySource {
 public:
  /// The extents of `patch` are read from its source, the rest from `most`.
  PatchedSource(std::shared_ptr<const MemorySource> most, MemoryRegion patch);

  /// What is read may begin in one and end in the other.
  Status read(uint64_t address, std::span<std::byte> out) const override;
  void prepare_reads_into(const SharedBuffer& buffer) const override;
  void read_once(const std::vector<Extent>& extents) const override;
  uint64_t frees(uint64_t address, uint64_t length) const override {
    return most_->frees(address, length);
  }

 private:
  std::shared_ptr<const MemorySource> most_;
  MemoryRegion patch_;
};

}  // namespace fermata::node_agent
